"""Which items a local engine computes together: what fits into a forward pass, and nothing that the rest waits for."""

from collections.abc import Mapping

# Tokens by which an item may be longer than twice the oldest. Nothing is padded, but a pass answers as a whole, and a
# query should not wait for a page.
_LONGER = 32


def next_batch(lengths: Mapping[int, int], budget: int) -> list[int]:
    """Return the numbers of the items for the next pass, given the tokens of all that wait, the oldest first.

    The oldest is always among them; others of like length, and shorter ones, keep it company while all together have at
    most `budget` tokens, unless the oldest alone has more.
    """
    oldest = next(iter(lengths))
    longest = 2 * lengths[oldest] + _LONGER
    batch: list[int] = []
    total = 0
    for number in sorted(lengths, key=lambda number: abs(lengths[number] - lengths[oldest])):
        if lengths[number] > longest:
            continue
        total += lengths[number]
        if batch and total > budget:
            break
        batch.append(number)
    return batch
