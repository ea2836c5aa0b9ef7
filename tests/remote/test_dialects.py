"""What a server does not understand of the protocol is given up, once."""

import json
from typing import Any

import pytest

from nemovlm.errors import InputTooLongError, RequestRefusedError
from tests.support.faults import DIMENSION, FIELDS, MODEL, FaultServer, honestly, says
from tests.support.remote import TEXTS, Call, all_right, all_right_but, error_of, outcomes, png, remote, url_of

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("field", "change", "knobs"),
    [
        ("encoding_format", {"encodings": ("float",)}, {}),
        ("dimensions", {"fields": FIELDS - {"dimensions"}}, {"dimensions": 512}),
        ("modality", {"fields": FIELDS - {"modality"}}, {}),
        ("input_type", {"fields": FIELDS - {"input_type"}}, {}),
    ],
)
async def test_a_field_that_is_refused(
    server: FaultServer, call: Call, field: str, change: dict[str, Any], knobs: dict[str, Any]
) -> None:
    """The server refuses it once; from then on it is done without, and vectors are the same."""
    for name, value in change.items():
        setattr(server, name, value)
    cut = knobs.get("dimensions", DIMENSION)
    with remote(server, **knobs) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS, cut=cut)
        assert all_right(await call(embedder, "embed_queries", TEXTS), TEXTS, "query", cut)
        image = url_of(png())
        assert all_right(await call(embedder, "embed", [png()]), [image], cut=cut)
    assert server.replies == [400, 200, 200, 200]
    assert {
        body.get("encoding_format") if field == "encoding_format" else body.get(field) for body in server.asked[1:]
    } == {None}


@pytest.mark.parametrize(
    "body",
    [
        {"error": "This model does not support 'dimensions', but a value of '512' was provided."},
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "dimensions"], "msg": "Extra inputs", "input": 512}]},
        {"message": "Unsupported parameter: unexpected 'dimensions'"},
        {"error": {"message": "dimensions is not supported"}},
    ],
)
async def test_words_for_a_field_that_is_refused(server: FaultServer, call: Call, body: object) -> None:
    """Servers have several of them."""
    server.script.append(says(400, body))
    with remote(server, dimensions=512) as embedder:
        assert all_right(await call(embedder, "embed", ["a"]), ["a"], cut=512)
    assert ["dimensions" in body for body in server.asked] == [True, False]


async def test_refusals_of_many_requests_at_once(server: FaultServer, call: Call) -> None:
    """Requests that were under way when the first was refused go through the same."""
    server.encodings, server.fields, server.jitter = ("float",), FIELDS - {"modality"}, 0.02
    with remote(server, max_batch_size=4) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS)


async def test_a_refusal_that_stays(server: FaultServer, call: Call) -> None:
    """A server that refuses even what is left gives an error, not a loop, and gets the field again."""
    server.always = says(400, {"error": "modality is not supported"})
    with remote(server) as embedder:
        assert isinstance(await error_of(call, embedder), RequestRefusedError)
        assert len(server.posts) == 2
        server.always = honestly
        assert all_right(await call(embedder, "embed", ["a"]), ["a"])
    assert ["modality" in body for body in server.asked] == [True, False, True]


@pytest.mark.parametrize("said", ["what is {field}?", "{field}: nobody here knows that word", "sorry ({field})"])
@pytest.mark.parametrize("field", ["encoding_format", "modality", "input_type"])
async def test_a_field_is_given_up_whatever_the_words(server: FaultServer, call: Call, said: str, field: str) -> None:
    """It decides that the same request is taken without the field that a refusal names."""
    server.always = lambda honest: (
        says(422, {"message": said.format(field=field)})(honest) if field in server.asked[-1] else honest
    )
    with remote(server) as embedder:
        for text in ("a", "b"):
            assert all_right(await call(embedder, "embed", [text]), [text])
    assert server.replies == [422, 200, 200]


async def test_a_text_that_speaks_of_fields(server: FaultServer, call: Call) -> None:
    """A server that quotes it in refusing it costs one request more, and is understood as before."""
    server.max_length = 100
    text = "encoding_format, modality, dimensions and input_type are not supported " * 3
    server.always = lambda honest: (
        says(400, {"error": f"{json.loads(honest.body)['error']}: {text}"})(honest)
        if (honest.status == 400)
        else honest
    )
    with remote(server) as embedder:
        vectors, (error,) = await outcomes(call, embedder, [*TEXTS[:37], text, *TEXTS[38:]])
        assert all_right_but(vectors, TEXTS, {37})
        assert isinstance(error, InputTooLongError)
        assert len(server.posts) == 13 + 1
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS)
    assert {"encoding_format", "modality", "input_type"} <= server.asked[-1].keys()


async def test_a_refusal_behind_another(server: FaultServer, call: Call) -> None:
    """A request whose field is refused, and then one of its items, loses that item alone."""
    server.fields, server.max_length = FIELDS - {"modality"}, 100
    with remote(server) as embedder:
        vectors, (error,) = await outcomes(call, embedder, [*TEXTS[:3], "x" * 200])
    assert all_right_but(vectors, TEXTS[:4], {3})
    assert isinstance(error, InputTooLongError)


async def test_a_text_that_looks_like_an_image(server: FaultServer, call: Call) -> None:
    """A server that has to guess would take it for one: it alone gets an error, and no wrong vector."""
    server.fields = FIELDS - {"modality"}
    text = url_of(png())
    with remote(server) as embedder:
        for items in ([text], ["a", text, "b"]):
            vectors, (error,) = await outcomes(call, embedder, items)
            assert isinstance(error, RequestRefusedError)
            assert all_right_but(vectors, items, {items.index(text)})
        assert all_right(await call(embedder, "embed", ["a", png()]), ["a", text])


async def test_a_role_that_cannot_be_told_otherwise(server: FaultServer, call: Call) -> None:
    """Where the model has no twin for the role, the refusal of `input_type` is the error, not the lack of the twin."""
    server.always = lambda honest: (
        says(400, {"error": "input_type: no"})(honest)
        if "input_type" in server.asked[-1]
        else says(404, {"error": f"no model {server.asked[-1]['model']}"})(honest)
    )
    with remote(server) as embedder:
        for _ in range(2):
            error = await error_of(call, embedder)
            assert (type(error), error.status) == (RequestRefusedError, 400)
    assert [body["model"] for body in server.asked] == [MODEL, f"{MODEL}-passage"] * 2


@pytest.mark.parametrize("knobs", [{"embedding_type": "int8"}, {"dimensions": 96, "model": "acme/embedder"}])
async def test_what_was_asked_for_and_cannot_be_had(server: FaultServer, call: Call, knobs: dict[str, Any]) -> None:
    """Floats are no int8, and 64 numbers no 96: the error has the server's words and names the setting."""
    server.models, server.dimension = [MODEL, "acme/embedder"], 64 if "model" in knobs else DIMENSION
    server.fields = FIELDS - {"embedding_type"}
    with remote(server, **knobs) as embedder:
        vectors, errors = await outcomes(call, embedder, TEXTS[:4])
    assert vectors == [None] * 4
    (name, value), *_ = knobs.items()
    assert all(f"it answers without {name}={value!r}: change that setting" in str(error) for error in errors)
    assert all("answered 400: " in str(error) for error in errors)
    assert len(server.posts) == 2
