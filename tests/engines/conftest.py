"""These tests need torch in their process: tiny checkpoints, and the pocket model where reading is what is tested."""

from collections.abc import Iterator

import pytest

from nemovlm import Embedder


@pytest.fixture(scope="session")
def pocket() -> Iterator[Embedder]:
    """An embedder on the pocket model. A picture of a page takes it a second or several; a text, next to nothing."""
    with Embedder("nemovlm/pocket") as embedder:
        yield embedder
