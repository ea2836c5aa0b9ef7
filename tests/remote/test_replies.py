"""A reply that cannot be trusted gives no vector."""

import base64
from typing import Any

import numpy as np
import pytest

from nemovlm.errors import EngineError, ProtocolError
from tests.support.faults import Fault, FaultServer, embedded, rows, twisted
from tests.support.remote import TEXTS, Call, all_right, all_right_but, outcomes, remote

pytestmark = pytest.mark.timeout(60)


def numbered(index: object) -> Fault:
    return rows(lambda data: data[2].update(index=index))


WRONG: dict[str, Fault] = {
    "missing": rows(lambda data: data[:-1]),
    "one too many": rows(lambda data: [*data, data[0] | {"index": 4}]),
    "none": rows(lambda data: []),
    "duplicate": numbered(1),
    "out of range": numbered(4),
    "negative": numbered(-1),
    "text": numbered("2"),
    "float": numbered(2.0),
    "bool": rows(lambda data: data[1].update(index=True)),
    "list": numbered([2]),
    "null": numbered(None),
    "no index": rows(lambda data: data[2].pop("index") and None),
    "from one": rows(lambda data: [row | {"index": row["index"] + 1} for row in data]),
    "rows are none": rows(lambda data: [1, 2, 3, 4]),
    "data is none": twisted(lambda reply: reply.pop("data") and None),
    "a list": twisted(lambda reply: reply["data"]),
    "a number": twisted(lambda reply: 7),
    "an error with 200": twisted(lambda reply: {"error": "quota exceeded"}),
    "dimension": embedded(*[[0.5] * 100] * 4),
    "dimensions differ": embedded([0.5] * 2048, [0.5] * 1024),
    "no components": embedded(*[[]] * 4),
    "embedding is null": embedded(None),
    "embedding is a number": embedded(1.0),
    "embedding is nested": embedded([[0.5] * 2048]),
    "embedding is no base64": embedded("äöü"),
    "base64 is cut off": embedded(base64.b64encode(bytes(8191)).decode()),
    "numbers are too large": embedded([10**400] * 2048),
}


@pytest.mark.parametrize("fault", WRONG.values(), ids=WRONG)
async def test_a_reply_that_cannot_be_trusted(server: FaultServer, call: Call, fault: Fault) -> None:
    """No vector is taken from it, it is not asked for again, and the next reply is."""
    server.script.append(fault)
    with remote(server) as embedder:
        vectors, errors = await outcomes(call, embedder, TEXTS[:4])
        assert vectors == [None] * 4
        assert [(type(error), error.index) for error in errors] == [(ProtocolError, index) for index in range(4)]
        assert len({id(error) for error in errors}) == 4
        assert len(server.posts) == 1
        assert all_right(await call(embedder, "embed", TEXTS[:4]), TEXTS[:4])


async def test_rows_in_any_order(server: FaultServer, call: Call) -> None:
    """What a row says of its index counts, not where it stands."""
    server.shuffled = True
    with remote(server) as embedder:
        assert all_right(await call(embedder, "embed", TEXTS), TEXTS)


@pytest.mark.parametrize(
    "numbers",
    [
        [float("nan")] + [0.5] * 2047,
        [None] + [0.5] * 2047,
        [0.5] * 2047 + [float("inf")],
        [-float("inf")] * 2048,
        [1e200] * 2048,
        [0.0] * 2048,
        base64.b64encode(np.full(2048, np.nan, "<f4").tobytes()).decode(),
        base64.b64encode(bytes(8192)).decode(),
    ],
    ids=["NaN", "null", "infinity", "-infinity", "over float32", "zeros", "NaN in base64", "zeros in base64"],
)
async def test_one_vector_that_is_none(server: FaultServer, call: Call, numbers: object) -> None:
    """A vector that is not finite, or zero, is that item's error alone."""

    def change(data: list[dict[str, Any]]) -> None:
        data[1]["embedding"] = numbers

    server.script.append(rows(change))
    with remote(server) as embedder:
        vectors, (error,) = await outcomes(call, embedder, TEXTS[:4])
    assert all_right_but(vectors, TEXTS[:4], {1})
    assert isinstance(error, EngineError)
    assert error.index == 1
