"""The LangChain adapter over vLLM: the framework's own standard tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_nemovlm import NemoVLMEmbeddings
from tests.support.real_vllm import OPTIONS


class OnVllm:
    """What the framework's standard tests make and call. They make one for each test, which a whole vLLM is too much
    for: all tests of a class share theirs.
    """

    folder: Path

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _in_this_folder(cls, vllm_folder: Path) -> None:
        cls.folder = vllm_folder

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return NemoVLMEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": str(self.folder), "engine": "vllm", "dtype": "float32", "engine_options": OPTIONS}

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, vllm_folder: Path) -> Iterator[Embeddings]:
        made = NemoVLMEmbeddings(model=str(vllm_folder), engine="vllm", dtype="float32", engine_options=OPTIONS)
        with made.embedder:
            yield made


class TestUnit(OnVllm, EmbeddingsUnitTests):
    pass


class TestIntegration(OnVllm, EmbeddingsIntegrationTests):
    pass
