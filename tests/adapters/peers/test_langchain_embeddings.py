"""What the tests of `NVIDIAEmbeddings` alone promise: of texts, headers, replies that are put off, and copies."""

import pickle

import pytest
from langchain_core.embeddings import Embeddings

import langchain_nemovlm
import llamaindex_nemovlm
from nemovlm.errors import InputError
from nemovlm.wire.address import HOSTED_URL
from tests.adapters.peers.stage import LANGCHAIN, ONCE, Elsewhere, Stage, row, same
from tests.support.faults import MODEL, says, vectors_of


@row(LANGCHAIN, "test_embeddings.py", "ValueError for texts that are no list of str", ours=(LANGCHAIN,))
def test_texts_that_are_no_list_of_str_are_a_value_error(stage: Stage) -> None:
    """Anything else is refused before a connection is opened, with the place of the item that is no text."""
    made = stage.make()
    for wrong in (1, 1.5, "abc", [1, 2], [1.5], ["a", 1], ["a", None], [b"a"], ("a", "b"), None, {"a": "b"}):
        with pytest.raises(InputError) as raised:
            stage.door.texts(made, wrong)
        assert isinstance(raised.value, ValueError)
    with pytest.raises(InputError, match=r"item 1: .* not a int") as raised:
        stage.door.texts(made, ["a", 1])
    assert raised.value.index == 1
    assert stage.wire.connections == 0


@row(LANGCHAIN, "test_embeddings.py", "ValueError for a truncate that is not NONE, START or END", colors=ONCE)
def test_truncate_is_one_of_three_words(stage: Stage) -> None:
    """Anything but NONE, START and END is an error of the constructor, be it truth values or small letters."""
    for wrong in (True, False, 1, 0, 1.0, "BOGUS", "end"):
        with pytest.raises(ValueError, match="truncate"):
            stage.make(truncate=wrong)


@row(LANGCHAIN, "test_embeddings.py", "default_headers reach the wire, also over those of our own")
def test_default_headers_reach_the_wire_over_our_own(stage: Stage) -> None:
    """Every request has them, and an `Authorization` among them beats the key."""
    made = stage.make(default_headers={"X-Team": "t", "Authorization": "Basic b"}, api_key="k")
    stage.door.texts(made, ["a"])
    stage.door.query(made, "a")
    assert {(request.headers["x-team"], request.headers["authorization"]) for request in stage.wire.requests} == {
        ("t", "Basic b")
    }


@row(LANGCHAIN, "test_202_polling.py", "a hosted reply that is put off is asked for at NVIDIA's, with the same key")
def test_a_hosted_reply_that_is_put_off_is_asked_for_with_the_same_key(stage: Stage) -> None:
    """After a 202, NVIDIA's own host of such replies is asked, which gets the key as well."""
    elsewhere = Elsewhere(put_off="0a1b-2c")
    made = stage.make(base_url=HOSTED_URL, api_key="k", http_client=elsewhere.client)
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert elsewhere.asked == [
        "POST https://integrate.api.nvidia.com/v1/embeddings",
        "GET https://api.nvcf.nvidia.com/v2/nvcf/pexec/status/0a1b-2c",
    ]
    assert elsewhere.keys == {"Bearer k"}


@row(
    *(LANGCHAIN, "test_202_polling.py", "a reply that another server put off is asked for at NVIDIA's, too"),
    differs="the key of one server is never shown to another, so the one that put it off is asked",
)
def test_a_reply_that_another_server_puts_off_is_asked_for_there(stage: Stage) -> None:
    """After a 202 of a server of one's own, its key goes to no other host."""
    stage.wire.script.append(says(202, NVCF_REQID="0a1b-2c"))
    assert same(stage.door.query(stage.make(model=MODEL, api_key="k"), "a"), vectors_of(["a"], "query")[0])
    assert [(request.method, request.target, request.headers["authorization"]) for request in stage.wire.sent] == [
        ("POST", "/v1/embeddings", "Bearer k"),
        ("GET", "/v2/nvcf/pexec/status/0a1b-2c", "Bearer k"),
    ]


@row(LANGCHAIN, "test_serialization.py", "a fresh object survives pickling")
def test_a_pickled_copy_keeps_its_arguments(stage: Stage) -> None:
    """Key, headers, dimensions and truncate are in what a copy sends."""
    fields = {"api_key": "k", "default_headers": {"X-Team": "t"}, "dimensions": 32, "truncate": "END"}
    again = pickle.loads(pickle.dumps(stage.make(**fields)))
    stage.closing.callback(again.embedder.close)
    assert same(stage.door.query(again, "a"), vectors_of(["a"], "query", 32)[0])
    sent = stage.wire.posts[-1]
    assert (sent.headers["authorization"], sent.headers["x-team"], sent.json["truncate"]) == ("Bearer k", "t", "END")


@row(LANGCHAIN, "test_standard.py", "it is an Embeddings, which passes LangChain's standard tests", ours=(LANGCHAIN,))
def test_it_is_an_embeddings_of_langchain(stage: Stage) -> None:
    """Vectors are lists of floats, all of one length, as LangChain's standard tests want them."""
    made = stage.make(base_url=stage.honest)
    assert isinstance(made, Embeddings)
    vectors = [stage.door.query(made, "a"), *stage.door.texts(made, ["a", "b"])]
    assert {(type(vector), type(vector[0]), len(vector)) for vector in vectors} == {(list, float, 128)}


@row(LANGCHAIN, "test_imports.py", "the package exports what it says", ours=(LANGCHAIN,), colors=ONCE)
def test_the_packages_export_what_they_say(stage: Stage) -> None:  # noqa: ARG001 - every row has one
    """Every name in `__all__` is there, the classes and the readers of PDFs among them."""
    for package in (langchain_nemovlm, llamaindex_nemovlm):
        assert all(hasattr(package, name) for name in package.__all__)
    assert {"NemoVLMEmbeddings", "NemoVLMPDFLoader"} <= set(langchain_nemovlm.__all__)
    assert {"NemoVLMEmbedding", "NemoVLMPDFReader"} <= set(llamaindex_nemovlm.__all__)
