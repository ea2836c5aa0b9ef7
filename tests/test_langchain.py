"""The LangChain adapter: the framework's own standard tests, and a real vector store."""

import asyncio
import base64
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import case_image
from langchain_core.document_loaders import Blob
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.load import dumps
from langchain_core.messages import HumanMessage
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_nemovlm import NemoVLMEmbeddings, NemoVLMPDFLoader, NemoVLMPDFParser, page_to_content_block
from nemovlm import Embedder
from nemovlm.errors import ConfigurationError, ImageError, InputError, PdfError
from nemovlm.images import encode_png


class Pocket:
    """What the framework's standard tests make and call."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return NemoVLMEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "nemovlm/pocket"}


class TestUnit(Pocket, EmbeddingsUnitTests):
    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {}, {"model": "nemovlm/pocket"}, {"model": "nemovlm/pocket"}


class TestIntegration(Pocket, EmbeddingsIntegrationTests):
    pass


@pytest.fixture(scope="module")
def embeddings(vl_folder: Path) -> NemoVLMEmbeddings:
    return NemoVLMEmbeddings(model=str(vl_folder), truncate="END")


def test_vectors_are_those_of_the_embedder(embeddings: NemoVLMEmbeddings, vl: Embedder) -> None:
    """Texts are passages, queries are queries, in plain lists of floats."""
    assert np.allclose(embeddings.embed_documents(["a", "b"]), vl.embed(["a", "b"]), atol=1e-6)
    assert np.allclose(embeddings.embed_query("a"), vl.embed_query("a"), atol=1e-6)
    assert asyncio.run(embeddings.aembed_documents(["a"])) == embeddings.embed_documents(["a"])
    assert asyncio.run(embeddings.aembed_query("a")) == embeddings.embed_query("a")
    assert type(embeddings.embed_query("a")[0]) is float


def test_images_come_in_every_form(embeddings: NemoVLMEmbeddings, tmp_path: Path) -> None:
    """A path as str or Path, a file URL, a data URL, bytes, an open file and a Pillow image are the same image."""
    image = case_image("square")
    png = encode_png(image)
    file = tmp_path / "a page.png"
    file.write_bytes(png)
    used = BytesIO(png)
    used.read(10)
    data_url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    references = [str(file), file, file.as_uri(), data_url, png, used, image]
    vectors = np.array(embeddings.embed_image(uris=references))
    assert np.abs(vectors - vectors[0]).max() <= 1e-6
    assert np.allclose(embeddings.embed_images([image]), vectors[:1], atol=1e-6)
    assert np.allclose(asyncio.run(embeddings.aembed_image([image])), vectors[:1], atol=1e-6)
    assert np.allclose(asyncio.run(embeddings.aembed_images([image])), vectors[:1], atol=1e-6)
    with pytest.raises(ImageError, match="are not fetched"):
        embeddings.embed_image(["https://example.com/page.png"])


def test_a_text_that_names_a_file_stays_a_text(embeddings: NemoVLMEmbeddings, tmp_path: Path) -> None:
    """embed_documents never opens anything."""
    file = tmp_path / "x.png"
    file.write_bytes(encode_png(case_image("icon")))
    text, image = embeddings.embed_documents([str(file)])[0], embeddings.embed_image([str(file)])[0]
    assert not np.allclose(text, image, atol=1e-3)


def test_keys_stay_secret(vl_folder: Path) -> None:
    """A key appears neither in repr nor in what LangChain serialises, and pickling keeps the object usable."""
    made = NemoVLMEmbeddings(model=str(vl_folder), api_key="nvapi-secret")
    assert "nvapi-secret" not in repr(made) + dumps(made) + str(made.model_dump())
    assert pickle.loads(pickle.dumps(made)).embed_query("x") == made.embed_query("x")


def test_unknown_and_wrong_arguments_fail_at_once() -> None:
    """Nothing is silently ignored."""
    with pytest.raises(ValueError, match="modality"):
        NemoVLMEmbeddings(model="nemovlm/pocket", modality="image")  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="did you mean 'nemovlm/pocket'"):
        NemoVLMEmbeddings(model="nemovlm/poket")


def test_pages_are_found_in_a_vector_store(samples: Path) -> None:
    """Load, add, ask: the right page comes back, sync and async."""
    store = InMemoryVectorStore(NemoVLMEmbeddings(model="nemovlm/pocket", truncate="END"))
    store.add_documents(NemoVLMPDFLoader(samples / "staff-handbook.pdf").load())
    question = "How much does the cooperative pay towards a bicycle for commuting?"
    found = store.similarity_search(question, k=1)[0]
    assert (found.metadata["page"], found.metadata["total_pages"]) == (2, 5)
    assert asyncio.run(store.asimilarity_search(question, k=1))[0].id == found.id


def test_documents_of_pages(samples: Path, tmp_path: Path) -> None:
    """One document a page, with flat metadata, distinct ids and digests, and pictures where they were asked for."""
    path = samples / "annual-report.pdf"
    documents = NemoVLMPDFLoader(str(path), image_dir=tmp_path / "pictures").load()
    assert [d.metadata["page"] for d in documents] == list(range(8))
    assert [d.metadata["page_label"] for d in documents] == ["i", "ii", "iii", "1", "2", "3", "4", "5"]
    assert len({d.id for d in documents}) == len({d.metadata["image_sha256"] for d in documents}) == 8
    assert all(isinstance(value, str | int | float) for d in documents for value in d.metadata.values())
    assert "Revenue" in " ".join(d.page_content for d in documents)
    assert all(Path(d.metadata["image_path"]).is_file() for d in documents)
    assert all(d.metadata["source"] == str(path) for d in documents)


def test_pictures_as_base64(samples: Path) -> None:
    """`content="base64"` gives the bare base64 of a PNG, as multimodal recipes hold it."""
    document = next(NemoVLMPDFLoader(samples / "staff-handbook.pdf", content="base64").lazy_load())
    assert base64.b64decode(document.page_content, validate=True).startswith(b"\x89PNG")


def test_parsing_blobs(samples: Path) -> None:
    """A blob of bytes and a blob of a path give the same pages."""
    path = samples / "staff-handbook.pdf"
    parser = NemoVLMPDFParser()
    from_path = parser.parse(Blob.from_path(path))
    from_bytes = parser.parse(Blob.from_data(path.read_bytes(), path=None, metadata={"source": "mail:7"}))
    assert [d.page_content for d in from_path] == [d.page_content for d in from_bytes]
    assert {d.metadata["source"] for d in from_bytes} == {"mail:7"}


def test_a_page_for_a_chat_model(samples: Path, tmp_path: Path) -> None:
    """From the written picture or rendered anew, the block is a PNG that a message takes."""
    for options in ({"image_dir": tmp_path}, {}):
        document = NemoVLMPDFLoader(samples / "staff-handbook.pdf", **options).load()[1]
        block = page_to_content_block(document)
        assert base64.b64decode(block["base64"]).startswith(b"\x89PNG")
        assert HumanMessage(content_blocks=[block]).content_blocks[0]["type"] == "image"
    with pytest.raises(InputError, match="no page"):
        page_to_content_block(Document("no page"))


def test_a_missing_pdf(tmp_path: Path) -> None:
    """The loader raises when it is asked for pages, by a typed error."""
    with pytest.raises(PdfError, match="No such file"):
        NemoVLMPDFLoader(tmp_path / "none.pdf").load()


def test_loading_asynchronously(samples: Path) -> None:
    """alazy_load() hops threads between pages, and gives the same documents."""
    loader = NemoVLMPDFLoader(samples / "staff-handbook.pdf")

    async def load() -> list[Document]:
        return [document async for document in loader.alazy_load()]

    assert [d.page_content for d in asyncio.run(load())] == [d.page_content for d in loader.load()]
