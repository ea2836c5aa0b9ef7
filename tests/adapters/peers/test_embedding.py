"""What the clients' integration tests promise of texts, against a real server and the same model in this process."""

import numpy as np
import pytest

from nemovlm.errors import ConfigurationError, EngineError, InputTooLongError
from tests.adapters.peers.stage import LANGCHAIN, LLAMAINDEX, ONCE, Stage, row, same
from tests.support.checkpoints import case_image
from tests.support.faults import MODEL, vectors_of


@row(LANGCHAIN, "integration test_embeddings.py", "queries and documents, one and several, are embedded as such")
@row(LLAMAINDEX, "test_integration.py", "queries and documents, one and several, are embedded as such")
@row(LLAMAINDEX, "I1")
def test_queries_are_queries_and_texts_are_passages(stage: Stage) -> None:
    """In sync and async code, a text has another vector as a query than as a passage, and the server is told which."""
    made = stage.make(base_url=stage.honest)
    texts = ["one", "two", "three " * 20]
    assert same(stage.door.texts(made, texts), stage.local.embed(texts))
    assert same(stage.door.text(made, "one"), stage.local.embed(["one"])[0])
    assert same(stage.door.query(made, "one"), stage.local.embed_query("one"))
    assert not same(stage.door.query(made, "one"), stage.door.text(made, "one"))
    wired = stage.make(model=MODEL)
    stage.door.query(wired, "one")
    stage.door.text(wired, "one")
    assert [body["input_type"] for body in stage.wire.asked] == ["query", "passage"]


@row(LANGCHAIN, "integration test_embeddings.py", "a text of 10,240 words is an error, also in the midst of others")
@row(LLAMAINDEX, "test_integration.py", "a text that is too long is an error")
def test_a_text_that_is_too_long_is_an_error_that_says_which(stage: Stage) -> None:
    """Nothing is cut unless that was asked for: a text over the limit is a ValueError with its place in the list."""
    made = stage.make(base_url=stage.honest)
    long = "word " * 10240
    for call in (lambda: stage.door.query(made, long), lambda: stage.door.text(made, long)):
        with pytest.raises(InputTooLongError):
            call()
    with pytest.raises(InputTooLongError, match="item 1:") as raised:
        stage.door.texts(made, ["short", long, "short"])
    assert raised.value.index == 1
    assert isinstance(raised.value, ValueError)


@row(LANGCHAIN, "integration test_embeddings.py", "truncate START and END cut what is too long")
@row(LLAMAINDEX, "test_integration.py", "truncate START and END cut what is too long")
def test_truncate_says_at_which_end_a_text_is_cut(stage: Stage) -> None:
    """START and END have the vectors that the local engine has for them, and not the same one."""
    long = "first " * 500 + "last " * 500  # some tokens a word, of 1024 that fit
    cut = {truncate: stage.local.embed(["a", long], truncate=truncate) for truncate in ("START", "END")}
    for truncate, vectors in cut.items():
        made = stage.make(base_url=stage.honest, truncate=truncate)
        assert same(stage.door.texts(made, ["a", long]), vectors)
    assert not same(cut["START"][1], cut["END"][1])


@row(LANGCHAIN, "integration test_embeddings.py", "101 texts in batches of 50 come back in order")
def test_many_texts_go_in_batches_and_come_back_in_order(stage: Stage) -> None:
    """101 texts travel in requests of 50 at the most, and each comes back with its own vector."""
    made = stage.make(model=MODEL, max_batch_size=50)
    texts = [f"text {number}" for number in range(101)]
    assert same(stage.door.texts(made, texts), vectors_of(texts))
    sizes = [len(body["input"]) for body in stage.wire.asked]
    assert sum(sizes) == 101
    assert max(sizes) <= 50


@row(LANGCHAIN, "integration test_embeddings.py", "dimensions are honored by queries and documents")
@row(LLAMAINDEX, "test_integration.py", "dimensions are honored by queries and documents")
@row(LLAMAINDEX, "I2")
def test_dimensions_hold_for_texts_queries_and_images(stage: Stage) -> None:
    """In sync and async code, every vector is as long as was asked for, of unit length, and the server is told."""
    for dimensions in (32, 64, 128):
        made = stage.make(base_url=stage.honest, dimensions=dimensions)
        cut = stage.local.embed(["a"])[0][:dimensions]
        assert same(stage.door.text(made, "a"), cut / np.linalg.norm(cut))
        assert len(stage.door.query(made, "a")) == dimensions
    wired = stage.make(model=MODEL, dimensions=32)
    stage.door.query(wired, "a")
    stage.door.text(wired, "a")
    stage.door.images(wired, [stage.picture(case_image("icon"))])
    assert [body["dimensions"] for body in stage.wire.asked] == [32] * 3


@row(
    *(LANGCHAIN, "integration test_embeddings.py", "102400 dimensions are clamped to what the model has"),
    differs="an index is built for a number of components: fewer than were asked for are an error there, or here",
)
@row(
    *(LLAMAINDEX, "test_integration.py", "102400 dimensions are clamped to what the model has"),
    differs="an index is built for a number of components: fewer than were asked for are an error there, or here",
)
def test_more_dimensions_than_a_model_has_are_an_error(stage: Stage) -> None:
    """Of a model that is known here, the constructor says so; of another one, the server does."""
    with pytest.raises(ConfigurationError, match="dimensions=102400 is more than the 2048"):
        stage.make(model=MODEL, dimensions=102400)
    made = stage.make(base_url=stage.honest, dimensions=102400)
    for call in (lambda: stage.door.query(made, "a"), lambda: stage.door.text(made, "a")):
        with pytest.raises(EngineError, match=r"400.*from 1 to 128, not 102400"):
            call()


@row(LANGCHAIN, "integration test_embeddings.py", "dimensions=-1 is an error, at once", colors=ONCE)
@row(LLAMAINDEX, "test_integration.py", "dimensions=-1 is an error, at once", colors=ONCE)
def test_fewer_than_no_dimensions_are_an_error_of_the_constructor(stage: Stage) -> None:
    """`dimensions=-1` does not wait for a request to fail."""
    with pytest.raises(ValueError, match="dimensions"):
        stage.make(dimensions=-1)
