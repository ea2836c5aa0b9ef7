"""What engines are made of: which items are computed together, what is cut, and what is no embedding."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemovlm.chunking import iter_chunks, weigh
from nemovlm.engines.base import normalize
from nemovlm.engines.local.batching import next_batch
from nemovlm.errors import EngineError, InputTooLongError
from nemovlm.models.truncation import truncate_tokens


@given(
    lengths=st.dictionaries(st.integers(0, 500), st.integers(1, 4000), min_size=1, max_size=60),
    budget=st.integers(1, 9000),
)
def test_a_pass_takes_the_oldest_and_stays_within_the_budget(lengths: dict[int, int], budget: int) -> None:
    """No item is doubled, the oldest never waits, and a pass is over the budget only if it is one item."""
    batch = next_batch(lengths, budget)
    assert len(set(batch)) == len(batch)
    assert batch[0] == next(iter(lengths))
    assert len(batch) == 1 or sum(lengths[index] for index in batch) <= budget


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([10, 10, 900, 10], [0, 1, 3]),  # three short ones would wait for the long one
        ([900, 10, 880, 10], [0, 2, 1, 3]),  # which does not wait for them
        ([8, 30, 16, 12], [0, 3, 2, 1]),  # but what is short anyway travels together
        ([100] * 50, list(range(40))),  # up to the budget
    ],
)
def test_items_of_like_length_keep_company(lengths: list[int], expected: list[int]) -> None:
    """A pass is full, and nobody waits for what takes much longer."""
    assert next_batch(dict(enumerate(lengths)), 4000) == expected


@given(head=st.integers(0, 30), tail=st.integers(0, 60), limit=st.integers(1, 60))
def test_fit_never_cuts_the_head(head: int, tail: int, limit: int) -> None:
    """Within the limit nothing changes; over it the text loses tokens at one end; a long head is an error."""
    from nemovlm.engines.base import Item

    tails = list(range(100, 100 + tail))
    for truncate in ("NONE", "END", "START"):
        item = Item("passage", "text", None, truncate)
        if head + tail > limit and (truncate == "NONE" or head > limit):
            with pytest.raises(InputTooLongError):
                truncate_tokens(head, tails, limit, item)
            continue
        kept = truncate_tokens(head, tails, limit, item)
        assert head + len(kept) == min(limit, head + tail)
        assert kept == (tails[tail - len(kept) :] if truncate == "START" else tails[: len(kept)])


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (np.zeros(4, np.float32), "zero vector"),
        (np.array([1, np.nan, 0, 0], np.float32), "not finite"),
        (np.array([1, np.inf, 0, 0], np.float32), "not finite"),
        (np.ones(3, np.float32), r"shape \(3,\)"),
        (np.ones((1, 4), np.float32), r"shape \(1, 4\)"),
    ],
)
def test_what_is_no_embedding_is_an_error(raw: np.ndarray, complaint: str) -> None:
    """Zero, non-finite and misshapen answers never come out as vectors."""
    with pytest.raises(EngineError, match=complaint):
        raise normalize(raw, native=4, dimensions=4)  # type: ignore[misc] # it returns the error


def test_a_zero_prefix_of_a_vector_is_an_error() -> None:
    """A slice may be all zeros where the whole vector is not; that is no embedding either."""
    assert isinstance(normalize(np.array([0, 0, 1, 1], np.float32), native=4, dimensions=2), EngineError)


@settings(max_examples=100)
@given(
    st.lists(st.one_of(st.text(max_size=50), st.just(b"image"), st.integers(1, 90_000).map("x".__mul__)), max_size=40)
)
def test_windows_keep_every_item_in_order(items: list[Any]) -> None:
    """Cutting a stream into windows loses, doubles and moves nothing, and no window is empty."""
    found = list(iter_chunks(items, weigh))
    assert [item for window in found for item in window] == items
    assert all(found)
