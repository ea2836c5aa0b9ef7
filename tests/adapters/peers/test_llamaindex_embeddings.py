"""What the tests of `NVIDIAEmbedding` alone promise: of LlamaIndex's class, its batches, its events, and truncate."""

import asyncio
import inspect
from io import BytesIO

import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.embeddings import MultiModalEmbedding

from llamaindex_nemovlm import NemoVLMEmbedding
from nemovlm.images import encode_png
from tests.adapters.peers.stage import LLAMAINDEX, ONCE, Stage, row, same
from tests.support.checkpoints import case_image
from tests.support.faults import MODEL, vectors_of


@row(LLAMAINDEX, "test_embeddings_nvidia.py", "it is an embedding of LlamaIndex", ours=(LLAMAINDEX,), colors=ONCE)
@row(LLAMAINDEX, "I4", ours=(LLAMAINDEX,), colors=ONCE)
def test_it_is_an_embedding_of_llamaindex_for_texts_and_images(stage: Stage) -> None:
    """It is a `MultiModalEmbedding`, and takes an image as an open file or as a path."""
    made = stage.make(base_url=stage.honest)
    assert isinstance(made, BaseEmbedding)
    assert isinstance(made, MultiModalEmbedding)
    assert made.class_name() == "NemoVLMEmbedding"
    image = case_image("square")
    expected = stage.local.embed([image])[0]
    assert same(made.get_image_embedding(BytesIO(encode_png(image))), expected)
    assert same(asyncio.run(made.aget_image_embedding(stage.picture(image))), expected)


@row(LLAMAINDEX, "test_embeddings_nvidia.py", "timeout and max_retries reach the client", colors=ONCE)
@row(LLAMAINDEX, "I6", colors=ONCE)
def test_timeout_and_max_retries_are_what_was_passed(stage: Stage) -> None:
    """The fields of an object and the settings behind it say the same."""
    made = stage.make(timeout=3, max_retries=1)
    assert (made.timeout, made.max_retries) == (3, 1)
    assert (made.embedder.settings.timeout, made.embedder.settings.max_retries) == (3, 1)


@row(
    *(LLAMAINDEX, "test_embeddings_nvidia.py", "embed_batch_size over 259 is a ValueError"),
    differs="how much LlamaIndex hands over at once (its own limit is 2048) is not how much goes into one request",
    ours=(LLAMAINDEX,),
)
@row(LLAMAINDEX, "I9", "the size of a batch is checked by assert, which -O leaves out", ours=(LLAMAINDEX,))
def test_what_llamaindex_hands_over_at_once_is_not_one_request(stage: Stage) -> None:
    """`embed_batch_size` is LlamaIndex's, up to 2048, and a ValueError beyond; requests have 64 items at the most."""
    for wrong in (2049, 0, -5):
        with pytest.raises(ValueError, match="embed_batch_size"):
            stage.make(embed_batch_size=wrong)
    texts = [f"text {number}" for number in range(300)]
    assert same(stage.door.texts(stage.make(model=MODEL, embed_batch_size=300), texts), vectors_of(texts))
    assert max(len(body["input"]) for body in stage.wire.asked) == 64


@row(LLAMAINDEX, "test_embeddings_nvidia.py", "the async methods are coroutines", ours=(LLAMAINDEX,), colors=ONCE)
def test_the_async_methods_are_coroutines(stage: Stage) -> None:  # noqa: ARG001 - every row has one
    """What LlamaIndex awaits is our own, and not what it inherits, which calls the sync method."""
    for kind in ("query_embedding", "text_embedding", "text_embeddings", "image_embedding", "image_embeddings"):
        assert inspect.iscoroutinefunction(vars(NemoVLMEmbedding)[f"_aget_{kind}"])


@row(LLAMAINDEX, "test_embeddings_nvidia.py", "embedding is an event for callbacks", ours=(LLAMAINDEX,))
def test_embedding_is_an_event_for_callbacks(stage: Stage) -> None:
    """A query is one event, and so is a batch of texts."""
    handler = LlamaDebugHandler(print_trace_on_end=False)
    made = stage.make(model=MODEL, callback_manager=CallbackManager([handler]))
    stage.door.query(made, "a")
    stage.door.texts(made, ["a", "b"])
    assert len(handler.get_event_pairs(CBEventType.EMBEDDING)) == 2


@row(
    *(LLAMAINDEX, "test_mode_switch.py", "mode('nim', base_url=...) switches an object over"),
    differs="mode() was deprecated there, too; an object is what it was made as",
    colors=ONCE,
)
def test_an_object_is_what_it_was_made_as(stage: Stage) -> None:
    """There is no `mode()` to switch it over to another server."""
    assert not hasattr(stage.make(), "mode")


@row(LLAMAINDEX, "test_truncate.py", "every request says truncate, single and batch, for queries and texts")
def test_every_request_says_truncate(stage: Stage) -> None:
    """Queries, single texts and batches say it in sync and async code, and NONE where nothing was chosen."""
    for truncate in (None, "NONE", "START", "END"):
        stage.wire.requests.clear()
        made = stage.make(model=MODEL, truncate=truncate)
        stage.door.query(made, "a")
        stage.door.text(made, "a")
        stage.door.texts(made, ["a", "b"])
        assert [body["truncate"] for body in stage.wire.asked] == [truncate or "NONE"] * 3
