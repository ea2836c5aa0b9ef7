"""What a server says when it refuses, in every shape that servers have for it, becomes the right error."""

import pickle
from dataclasses import replace

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
from tests.support.faults import MODEL, FaultServer, says
from tests.support.remote import KEY, TEXTS, Call, all_right, error_of, outcomes, remote

pytestmark = pytest.mark.timeout(60)

MESSAGE = "the frobnicator is off"
SHAPES: dict[str, object] = {
    "hosted": {"error": MESSAGE},
    "openai": {"error": {"message": MESSAGE, "type": "some_error", "code": 7}},
    "nim 1": {"object": "error", "message": MESSAGE, "detail": {}, "type": "some_error"},
    "fastapi text": {"detail": MESSAGE},
    "fastapi list": {"detail": [{"type": "some_error", "loc": ["body", "truncate"], "msg": MESSAGE, "input": "x"}]},
    "nvcf": {"type": "urn:x", "title": "Whatever", "status": 1, "detail": MESSAGE, "instance": "/", "requestId": "r-1"},
    "text": MESSAGE.encode(),
    "xml": f"<?xml version='1.0'?><Error><Code>Odd</Code><Message>{MESSAGE}</Message></Error>".encode(),
    "html": f"<title>Oh &amp; no</title><style>p {{color: red}}</style><h1>{MESSAGE}</h1>".encode(),
}
KINDS: list[tuple[int, type[NemoVLMError]]] = [
    (400, RequestRefusedError),
    (401, AuthenticationError),
    (402, RequestRefusedError),
    (403, AuthenticationError),
    (404, ModelNotServedError),
    (405, RequestRefusedError),
    (407, AuthenticationError),
    (409, RequestRefusedError),
    (410, RequestRefusedError),
    (413, InputError),
    (415, RequestRefusedError),
    (421, RequestRefusedError),
    (422, RequestRefusedError),
    (425, ServerError),
    (429, RateLimitedError),
    (451, RequestRefusedError),
    (500, ServerError),
    (501, ServerError),
    (503, ServerError),
    (520, ServerError),
    (530, ServerError),
    (599, ServerError),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("status", "kind"), KINDS)
def test_every_shape_of_error(server: FaultServer, shape: str, status: int, kind: type[NemoVLMError]) -> None:
    """Status, the server's own words and its request id come out of every shape, in the right type, through pickle."""
    server.always = says(status, SHAPES[shape], **({} if shape == "nvcf" else {"X_Request_Id": "r-1"}))
    with remote(server, max_retries=0, deadline=0.2) as embedder, pytest.raises(NemoVLMError) as raised:
        embedder.embed(["a"])
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
        assert type(error) is kind
        assert (error.status, error.request_id, error.index, error.item) == (status, "r-1", 0, "item 0")
        assert MESSAGE in str(error)
        assert f"{server.host} answered {status}" in str(error)
        assert "<" not in str(error)
        assert "color" not in str(error)


def test_an_error_without_words(server: FaultServer) -> None:
    """`{"detail": null}` is a status and nothing else; NVCF's own header names the request."""
    server.always = says(422, {"detail": None}, NVCF_REQID="r-2")
    with remote(server) as embedder, pytest.raises(RequestRefusedError) as raised:
        embedder.embed(["a"])
    assert str(raised.value) == f"item 0: {server.host} answered 422"
    assert raised.value.request_id == "r-2"


@pytest.mark.parametrize(
    "status", [301, 307, 400, 401, 402, 403, 404, 405, 406, 409, 410, 411, 413, 418, 422, 431, 451]
)
async def test_what_is_refused_is_not_repeated(server: FaultServer, call: Call, status: int) -> None:
    """A refusal that time does not change costs one request."""
    server.always = says(status, {"error": "no"}, Location="http://elsewhere.test/v1")
    with remote(server) as embedder:
        error = await error_of(call, embedder)
    assert error.status == status
    assert len(server.posts) == 1


async def test_a_batch_is_refused_once(server: FaultServer, call: Call) -> None:
    """A refusal that concerns no item is not tried again in parts; every item has an error of its own."""
    server.always = says(401, {"error": "no"})
    with remote(server) as embedder:
        vectors, errors = await outcomes(call, embedder, TEXTS)
    assert vectors == [None] * 64
    assert [error.index for error in errors] == list(range(64))
    assert len(server.posts) == 1


async def test_a_redirect_is_reported(server: FaultServer, call: Call) -> None:
    """The client goes nowhere else with what it has to send; the error says where the server points."""
    server.always = says(307, b"", Location=f"http://elsewhere.test/v1/?token={KEY}")
    with remote(server, api_key=KEY) as embedder:
        error = await error_of(call, embedder)
    assert isinstance(error, RequestRefusedError)
    assert "redirect to http://elsewhere.test" in str(error)
    assert KEY not in str(error)
    assert len(server.sent) == 1


async def test_a_model_that_is_not_served(server: FaultServer, call: Call) -> None:
    """The error lists what the server does have; the one that has the model but not for this account lists nothing."""
    server.models = ["acme/one", "acme/two"]
    with remote(server) as embedder:
        error = await error_of(call, embedder)
        assert isinstance(error, ModelNotServedError)
        assert "it serves: acme/one, acme/two" in str(error)
        assert [request.target for request in server.requests] == ["/v1/models", "/v1/embeddings", "/v1/models"]
        server.models = [MODEL]
        server.always = says(404, {"detail": "Function not found for account"})
        error = await error_of(call, embedder)
    assert "Function not found" in str(error)
    assert "it serves" not in str(error)


def test_a_hint_is_no_condition(server: FaultServer) -> None:
    """A 404 from a server that does not list models either is told all the same."""
    server.paths = ("/other/embeddings",)
    with remote(server, base_url=f"{server.url}/nowhere") as embedder, pytest.raises(ModelNotServedError):
        embedder.embed(["a"])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"data": None, "error": f"{MESSAGE}, {KEY}"}, f"no list of embeddings: {MESSAGE}, ***"),
        ({"message": MESSAGE}, MESSAGE),
        ([{"error": MESSAGE}], MESSAGE),
        (MESSAGE, MESSAGE),
        (f"<html><head><title>Sign in &amp; out</title></head><p>{MESSAGE}".encode(), f"Sign in & out {MESSAGE}"),
        (f"<Error>{MESSAGE}</Error>".encode(), MESSAGE),
        (MESSAGE.encode(), MESSAGE),
        (b"", r"no JSON (0 bytes)"),
    ],
)
async def test_no_embeddings_and_status_200(server: FaultServer, call: Call, body: object, words: str) -> None:
    """The server's own words are told, without what is secret, for vectors as for the list of models."""
    server.always = server.listing = says(200, body)
    with remote(server, max_retries=0, api_key=KEY) as embedder:
        error = await error_of(call, embedder)
        assert isinstance(error, ProtocolError)
        assert words in str(error)
        if words and body:
            with pytest.raises(ProtocolError) as raised:
                embedder.available_models()
            assert words.removeprefix("no list of embeddings: ") in str(raised.value)
    assert KEY not in f"{error}{raised.value if body else ''}"


@pytest.mark.parametrize(
    ("status", "kind", "attempts"),
    [
        (401, AuthenticationError, 1),
        (402, RequestRefusedError, 1),
        ("404", ModelNotServedError, 1),
        (429, RateLimitedError, 1),
        ("503", ServerError, 3),
    ],
)
async def test_a_status_in_a_reply_of_status_200(
    server: FaultServer, call: Call, status: object, kind: type[NemoVLMError], attempts: int
) -> None:
    """The error in it counts as if it had come with its own status, repetitions and Retry-After included."""
    server.always = says(
        200, {"error": {"message": MESSAGE, "code": status}}, Retry_After="99" if status == 429 else "1"
    )
    with remote(server, max_retries=2, deadline=90) as embedder:
        error = await error_of(call, embedder)
    assert (type(error), error.status) == (kind, int(str(status)))
    assert MESSAGE in str(error)
    assert len(server.posts) == attempts


@pytest.mark.parametrize("status", [201, 203, 206])
async def test_other_statuses_of_success(server: FaultServer, call: Call, status: int) -> None:
    """Vectors are vectors, and nothing is nothing."""
    server.script += [lambda honest: replace(honest, status=status), says(204)]
    with remote(server) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
        error = await error_of(call, embedder)
    assert (type(error), error.status) == (ProtocolError, 204)
