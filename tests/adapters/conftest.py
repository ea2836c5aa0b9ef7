"""These tests need LangChain and LlamaIndex, and what they are used with: vector stores, caches, chat models."""

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let LlamaIndex's own code use what newer Pythons and libraries deprecate."""
    item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_index.*"))
