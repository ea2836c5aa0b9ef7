"""The LlamaIndex adapter in a real MultiModalVectorStoreIndex, and its reader through the framework's doors."""

import asyncio
import pickle
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from checkpoints import case_image
from llama_index.core import SimpleDirectoryReader, StorageContext, load_index_from_storage
from llama_index.core.embeddings import MultiModalEmbedding
from llama_index.core.indices import MultiModalVectorStoreIndex
from llama_index.core.schema import ImageDocument, ImageNode, NodeRelationship, TextNode

from llamaindex_nemovlm import NemoVLMEmbedding, NemoVLMPDFReader
from nemovlm import Embedder
from nemovlm.errors import ImageError, PdfError
from nemovlm.images import encode_png

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:llama_index.*")


@pytest.fixture(scope="module")
def embedding(vl_folder: Path) -> NemoVLMEmbedding:
    return NemoVLMEmbedding(model=str(vl_folder), truncate="END")


def test_every_door_gives_the_embedder_s_vectors(embedding: NemoVLMEmbedding, vl: Embedder, tmp_path: Path) -> None:
    """Query, text and image, single and batch, sync and async; a query is never embedded as a passage."""
    image = case_image("square")
    file = tmp_path / "x.png"
    file.write_bytes(encode_png(image))
    query, text, picture = vl.embed_query("q"), vl.embed(["q"])[0], vl.embed([image])[0]
    for got, expected in (
        (embedding.get_query_embedding("q"), query),
        (asyncio.run(embedding.aget_query_embedding("q")), query),
        (embedding.get_text_embedding("q"), text),
        (asyncio.run(embedding.aget_text_embedding("q")), text),
        (embedding.get_text_embedding_batch(["q", "r"])[0], text),
        (asyncio.run(embedding.aget_text_embedding_batch(["q", "r"]))[0], text),
        (embedding.get_image_embedding(str(file)), picture),
        (asyncio.run(embedding.aget_image_embedding(BytesIO(file.read_bytes()))), picture),
        (embedding.get_image_embedding_batch([str(file), BytesIO(file.read_bytes())])[1], picture),
        (asyncio.run(embedding.aget_image_embedding_batch([str(file)]))[0], picture),
    ):
        assert type(got[0]) is float
        assert np.abs(np.array(got) - expected).max() <= 1e-6
    assert not np.allclose(query, text, atol=1e-3)
    with pytest.raises(ImageError, match="are not fetched"):
        embedding.get_image_embedding("http://example.com/x.png")


def test_it_is_a_multimodal_embedding(embedding: NemoVLMEmbedding, vl_folder: Path) -> None:
    """Type, name, secrets and pickling are what LlamaIndex expects."""
    assert isinstance(embedding, MultiModalEmbedding)
    assert (embedding.class_name(), embedding.model_name) == ("NemoVLMEmbedding", "tiny-vl")
    keyed = NemoVLMEmbedding(model=str(vl_folder), api_key="nvapi-secret", dimensions=32)
    assert "nvapi-secret" not in str(keyed.to_dict()) + repr(keyed) + str(keyed.to_payload())
    assert keyed.to_dict()["dimensions"] == 32  # what changes vectors is part of LlamaIndex's cache keys
    assert pickle.loads(pickle.dumps(embedding)).get_query_embedding("x") == embedding.get_query_embedding("x")


@pytest.mark.parametrize("on_disk", [False, True], ids=["in memory", "on disk"])
def test_page_images_in_a_multimodal_index(
    on_disk: bool, embedding: NemoVLMEmbedding, vl: Embedder, samples: Path, tmp_path: Path
) -> None:
    """Every page is an ImageNode whose image vector finds it, after saving and loading as well."""
    reader = NemoVLMPDFReader(image_dir=tmp_path / "pictures" if on_disk else None)
    nodes = reader.load_nodes(samples / "staff-handbook.pdf")
    assert all(isinstance(node, ImageNode) for node in nodes)
    index = MultiModalVectorStoreIndex(nodes, embed_model=embedding, image_embed_model=embedding)
    index.storage_context.persist(str(tmp_path / "saved"))
    context = StorageContext.from_defaults(persist_dir=str(tmp_path / "saved"))
    loaded = load_index_from_storage(context, embed_model=embedding, image_embed_model=embedding)
    from nemovlm import iter_pages

    for made in (index, loaded):
        retriever = made.as_retriever(similarity_top_k=1, image_similarity_top_k=1)
        for page in iter_pages(samples / "staff-handbook.pdf"):
            picture = tmp_path / f"{page.index}.png"
            picture.write_bytes(encode_png(page.image))
            (found,) = retriever.image_to_image_retrieve(str(picture))
            assert found.node.metadata["page"] == page.index
            assert found.score == pytest.approx(1, abs=1e-5)
        assert {type(hit.node) for hit in retriever.retrieve("leave")} == {ImageNode}


def test_text_pages_in_a_multimodal_index(samples: Path) -> None:
    """With the pocket model, pages are found by their text; the question finds the right one, sync and async."""
    embedding = NemoVLMEmbedding(model="nemovlm/pocket", truncate="END")
    nodes = NemoVLMPDFReader(images=False).load_nodes(samples / "staff-handbook.pdf")
    assert {type(node) for node in nodes} == {TextNode}
    index = MultiModalVectorStoreIndex(nodes, embed_model=embedding, image_embed_model=embedding)
    retriever = index.as_retriever(similarity_top_k=1)
    question = "How much does the cooperative pay towards a bicycle for commuting?"
    assert retriever.retrieve(question)[0].node.metadata["page"] == 2
    assert asyncio.run(retriever.aretrieve(question))[0].node.metadata["page"] == 2


def test_nodes_are_chained_pages_of_one_source(samples: Path) -> None:
    """Ids and digests are distinct, neighbours know one another, and all name the PDF as their source."""
    nodes = NemoVLMPDFReader(images=False).load_nodes(samples / "annual-report.pdf", {"file_name": "mine"})
    assert len({node.node_id for node in nodes}) == len({node.metadata["image_sha256"] for node in nodes}) == 8
    assert [node.metadata["page_label"] for node in nodes][:4] == ["i", "ii", "iii", "1"]
    assert {node.metadata["file_name"] for node in nodes} == {"mine"}
    assert {node.ref_doc_id for node in nodes} == {str(samples / "annual-report.pdf")}
    for left, right in pairwise(nodes):
        assert left.relationships[NodeRelationship.NEXT].node_id == right.node_id  # type: ignore[union-attr]
        assert right.relationships[NodeRelationship.PREVIOUS].node_id == left.node_id  # type: ignore[union-attr]


def test_scans_are_not_dropped(embedding: NemoVLMEmbedding, samples: Path) -> None:
    """Pages without text layer keep content of their own, so that no index skips them and no cache mixes them up."""
    documents = NemoVLMPDFReader().load_data(samples / "archive-bulletin.pdf")
    assert [bool(document.text) for document in documents] == [True, False, False, True]
    assert all(document.get_content(metadata_mode="all") for document in documents)
    assert len({document.hash for document in documents}) == 4
    index = MultiModalVectorStoreIndex.from_documents(documents, embed_model=embedding, image_embed_model=embedding)
    found = index.as_retriever(image_similarity_top_k=9, similarity_top_k=9).text_to_image_retrieve("x")
    assert {hit.node.metadata["page"] for hit in found} == {0, 1, 2, 3}


def test_through_simple_directory_reader(samples: Path) -> None:
    """As a file extractor it gets the framework's metadata and gives one image document a page."""
    documents = SimpleDirectoryReader(
        input_files=[samples / "staff-handbook.pdf"], file_extractor={".pdf": NemoVLMPDFReader()}, raise_on_error=True
    ).load_data()
    assert len(documents) == 5
    assert all(isinstance(document, ImageDocument) for document in documents)
    assert documents[0].metadata["file_type"] == "application/pdf"
    assert documents[0].metadata["page_label"] == "1"


def test_from_another_file_system(samples: Path) -> None:
    """With an fsspec file system the PDF is read through it."""
    from fsspec.implementations.memory import MemoryFileSystem

    fs = MemoryFileSystem()
    fs.pipe("/box/staff.pdf", (samples / "staff-handbook.pdf").read_bytes())
    documents = list(NemoVLMPDFReader(images=False).lazy_load_data("/box/staff.pdf", fs=fs))
    assert [document.metadata["file_path"] for document in documents] == ["/box/staff.pdf"] * 5


def test_a_missing_pdf(tmp_path: Path) -> None:
    """Errors are raised, not printed."""
    with pytest.raises(PdfError, match="No such file"):
        NemoVLMPDFReader().load_data(tmp_path / "none.pdf")
