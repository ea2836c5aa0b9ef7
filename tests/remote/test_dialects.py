"""What a server does not understand of the protocol is given up, once."""

from typing import Any

import pytest

from nemovlm.errors import RequestRefusedError
from tests.support.faults import DIMENSION, FIELDS, FaultServer, says
from tests.support.remote import TEXTS, Call, all_right, error_of, png, remote, url_of

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
    """A server that refuses even what is left gives an error, not a loop."""
    server.always = says(400, {"error": "modality is not supported"})
    with remote(server) as embedder:
        assert isinstance(await error_of(call, embedder), RequestRefusedError)
    assert len(server.posts) == 2
