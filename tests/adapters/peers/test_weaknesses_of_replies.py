"""What the clients make of servers that are late, fail, or send something else than was asked for: ours does not."""

import pytest

from nemovlm.errors import (
    AuthenticationError,
    InputError,
    ModelNotServedError,
    NemoVLMError,
    ProtocolError,
    RateLimitedError,
    RequestRefusedError,
    ServerError,
)
from tests.adapters.peers.stage import DATA_URL, LANGCHAIN, LLAMAINDEX, ONCE, Stage, row, same
from tests.support.faults import MODEL, late, says, twisted, vectors_of


@row(LANGCHAIN, "L4")
def test_a_timeout_is_kept(stage: Stage) -> None:
    """A server that is later than `timeout` is an error that says for how long it was waited for."""
    stage.wire.always = late(30)
    with pytest.raises(ServerError, match=r"no reply within \d\.\d seconds"):
        stage.door.query(stage.make(model=MODEL, timeout=0.05, max_retries=0), "a")
    assert len(stage.wire.posts) == 1


@row(LANGCHAIN, "L5")
def test_what_may_pass_is_tried_again_and_what_is_too_large_is_cut_in_two(stage: Stage) -> None:
    """After 429 and 503 the same is sent again, and after 413 the halves of it."""
    stage.wire.script.extend([says(429, {"error": "slow down"}, Retry_After="0"), says(503, Retry_After="0")])
    made = stage.make(model=MODEL)
    assert same(stage.door.query(made, "a"), vectors_of(["a"], "query")[0])
    assert stage.wire.replies == [429, 503, 200]
    stage.wire.replies.clear()
    stage.wire.max_bytes = 1500  # four of these texts are too much for one request
    texts = [f"{number}" * 400 for number in range(4)]
    assert same(stage.door.texts(made, texts), vectors_of(texts))
    assert stage.wire.replies[0] == 413
    assert stage.wire.replies.count(200) == 2


@row(LANGCHAIN, "L8")
def test_an_error_has_a_class_a_status_and_no_secrets(stage: Stage) -> None:
    """An error says who was asked, what was said and by which id, but neither the key nor an image nor a whole page."""
    for status, kind in (
        *((400, RequestRefusedError), (401, AuthenticationError), (403, AuthenticationError)),
        *((404, ModelNotServedError), (413, InputError), (422, RequestRefusedError), (429, RateLimitedError)),
        *((500, ServerError), (502, ServerError), (503, ServerError)),
    ):
        body = {"error": f"nvapi-secret says {DATA_URL} " + "and more " * 500}
        stage.wire.always = says(status, body, X_Request_Id="r-1", Retry_After="60")
        made = stage.make(model=MODEL, api_key="nvapi-secret", max_retries=0, deadline=20)
        with pytest.raises(kind, match=f"{stage.wire.host} answered {status}: .* says ") as raised:
            stage.door.query(made, "a")
        assert (raised.value.status, raised.value.request_id) == (status, "r-1")
        assert "nvapi" not in str(raised.value)
        assert "base64" not in str(raised.value)
        assert len(str(raised.value)) < 500


@row(LANGCHAIN, "L9")
def test_an_error_of_any_shape_is_read(stage: Stage) -> None:
    """Whatever the body of a refusal is, its status is in the error, and its message where there is one."""
    made = stage.make(model=MODEL)
    for body, said in (
        ({"detail": None}, ""),
        (["an array"], "an array"),
        ({"detail": [{"loc": ["body", "truncate"], "msg": "Input should be 'NONE'", "type": "enum"}]}, "truncate"),
        ({"error": {"message": "of OpenAI's", "type": "x", "code": None}}, "of OpenAI's"),
        ({"title": "Bad Request", "status": 422, "detail": "of NVCF's"}, "of NVCF's"),
        (b"<html><h1>of a proxy</h1></html>", "of a proxy"),
        (b"", ""),
        (b"null", ""),
        (b"\xff\xfe", ""),
    ):
        stage.wire.always = says(422, body)
        with pytest.raises(NemoVLMError, match=said or None) as raised:
            stage.door.query(made, "a")
        assert raised.value.status == 422


@row(LANGCHAIN, "L10")
@row(LLAMAINDEX, "I9", "vectors are taken as many as there are")
def test_another_number_of_vectors_is_an_error(stage: Stage) -> None:
    """Fewer vectors than items, more of them, and two for one item are no reply."""
    made = stage.make(model=MODEL)
    for change in (
        lambda reply: reply["data"].pop(),
        lambda reply: reply["data"].append(reply["data"][0]),
        lambda reply: reply["data"][0].update(index=1),
    ):
        stage.wire.always = twisted(lambda reply, change=change: change(reply) and None)
        with pytest.raises(ProtocolError, match="for 2 items"):
            stage.door.texts(made, ["a", "b"])


@row(LLAMAINDEX, "I9", "vectors are taken in the order of the reply, whatever their index")
@row(LANGCHAIN, "L10", "vectors are put in the order of their index (which is no weakness, and so here)")
def test_vectors_are_put_in_the_order_of_their_index(stage: Stage) -> None:
    """A reply in another order than the request gives each text its own vector."""
    stage.wire.always = twisted(lambda reply: reply["data"].reverse())
    texts = [f"text {number}" for number in range(9)]
    assert same(stage.door.texts(stage.make(model=MODEL), texts), vectors_of(texts))


@row(LANGCHAIN, "L11", colors=ONCE)
def test_a_batch_of_no_items_is_an_error_of_the_constructor(stage: Stage) -> None:
    """`max_batch_size` is 1 at the least: nothing is silently left out."""
    for wrong in (-5, 0):
        with pytest.raises(ValueError, match="max_batch_size"):
            stage.make(max_batch_size=wrong)
    assert stage.make(max_batch_size=1).max_batch_size == 1
