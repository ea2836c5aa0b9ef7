"""One bad item costs no other its vector."""

import pytest

from nemovlm.errors import ImageError, InputError, InputTooLongError, RequestRefusedError, ServerError
from tests.support.faults import FaultServer, says
from tests.support.remote import TEXTS, Call, all_right, all_right_but, error_of, outcomes, png, remote

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("position", [0, 37, 63])
async def test_one_text_too_long(server: FaultServer, call: Call, position: int) -> None:
    """A refusal that names no item costs 63 others nothing, and a few requests."""
    server.max_length = 100
    texts = [*TEXTS[:position], "x" * 576, *TEXTS[position + 1 :]]
    with remote(server) as embedder:
        vectors, (error,) = await outcomes(call, embedder, texts)
    assert all_right_but(vectors, texts, {position})
    assert isinstance(error, InputTooLongError)
    assert (error.index, error.status, error.tokens, error.limit) == (position, 400, 576, 100)
    assert len(server.posts) == 13  # whole, then two parts for each of the six halvings


async def test_several_texts_too_long(server: FaultServer, call: Call) -> None:
    """Each has its own error."""
    server.max_length = 100
    texts = [text if number % 9 else text * 20 for number, text in enumerate(TEXTS)]
    with remote(server) as embedder:
        vectors, errors = await outcomes(call, embedder, texts)
    assert all_right_but(vectors, texts, set(range(0, 64, 9)))
    assert [error.index for error in errors] == list(range(0, 64, 9))


async def test_a_request_over_a_cap_is_divided(server: FaultServer, call: Call) -> None:
    """413: the parts are sent, all vectors are right, and what turned out to be too much is not tried again."""
    server.max_bytes = 8000
    texts = [f"{number} " + "x" * 800 for number in range(64)]
    with remote(server) as embedder:
        assert all_right(await call(embedder, "embed", texts), texts)
        refused = server.replies.count(413)
        assert refused
        assert all_right(await call(embedder, "embed", texts), texts)
    assert server.replies.count(413) == refused


async def test_an_item_over_a_cap(server: FaultServer, call: Call) -> None:
    """It gets an error alone."""
    server.max_bytes = 8000
    texts = [*TEXTS[:9], "x" * 9000, *TEXTS[10:]]
    with remote(server) as embedder:
        vectors, (error,) = await outcomes(call, embedder, texts)
    assert all_right_but(vectors, texts, {9})
    assert isinstance(error, InputError)
    assert (error.index, error.status) == (9, 413)


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("blamed", [{3}, {0, 63}, set(range(64))], ids=["one", "two", "all"])
async def test_items_that_the_server_names(server: FaultServer, call: Call, status: int, blamed: set[int]) -> None:
    """Only those fail, each in the server's words for it; the others cost one more request."""
    details = [{"loc": ["body", "input", n], "msg": f"item {n} is odd", "type": "value_error"} for n in sorted(blamed)]
    server.script.append(says(status, {"detail": details}))
    with remote(server) as embedder:
        vectors, errors = await outcomes(call, embedder, TEXTS)
    assert all_right_but(vectors, TEXTS, blamed)
    assert all(type(error) is InputError and f"item {error.index} is odd" in str(error) for error in errors)
    assert {error.index for error in errors} == blamed
    assert len(server.posts) == (1 if len(blamed) == 64 else 2)


async def test_positions_that_are_none(server: FaultServer, call: Call) -> None:
    """A server that names items which were not sent is not believed."""
    details = [{"loc": ["body", "input", n], "msg": "odd", "type": "x"} for n in (-1, 4, 99)]
    server.script.append(says(422, {"detail": details}))
    with remote(server) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS[:4]), TEXTS[:4])


async def test_an_item_that_the_server_cannot_bear(server: FaultServer, call: Call) -> None:
    """500 for whatever holds one item: it is found, and the others have their vectors."""
    server.always = lambda honest: (
        says(500, {"error": "Something went wrong"})(honest) if TEXTS[5] in server.asked[-1]["input"] else honest
    )
    with remote(server, max_retries=1) as embedder:
        vectors, (error,) = await outcomes(call, embedder, TEXTS[:16])
    assert all_right_but(vectors, TEXTS[:16], {5})
    assert (type(error), error.index, error.status) == (ServerError, 5, 500)


@pytest.mark.parametrize("message", ["cannot decode the image", "invalid image URLs", "base64 is broken"])
async def test_an_image_that_the_server_cannot_read(server: FaultServer, call: Call, message: str) -> None:
    """It is an `ImageError` for an image, and none for a text."""
    server.always = says(422, {"error": message})
    with remote(server) as embedder:
        assert type(await error_of(call, embedder, png())) is ImageError
        assert type(await error_of(call, embedder, "text")) is RequestRefusedError


async def test_an_image_that_is_none_is_never_sent(server: FaultServer, call: Call) -> None:
    """What fails here concerns nobody else."""
    with remote(server) as embedder:
        vectors, (error,) = await outcomes(call, embedder, ["a", b"no image", "b"])
    assert all_right_but(vectors, ["a", "", "b"], {1})
    assert (type(error), error.index) == (ImageError, 1)
    assert server.contents == {"a": 1, "b": 1}
