"""Which items a local engine computes together: as much as fits into a forward pass, and little of it padding."""

from collections.abc import Mapping

# Padding tokens an item may bring into a pass beyond its own length: a pass of its own would cost more.
_PADDING_FOR_FREE = 32


def next_batch(lengths: Mapping[int, int], budget: int) -> list[int]:
    """Return the numbers of the items for the next pass, given the tokens of all that wait, the oldest first.

    The oldest is always among them; others of like length keep it company, within `budget` tokens when padded to
    the longest, unless the oldest alone is longer. An item that would mostly bring padding waits for a better pass.
    """
    oldest = next(iter(lengths))
    batch: list[int] = []
    padded = longest = 0
    for number in sorted(lengths, key=lambda number: abs(lengths[number] - lengths[oldest])):
        wider = max(longest, lengths[number])
        total = (len(batch) + 1) * wider
        if batch and (total > budget or total - padded > 2 * lengths[number] + _PADDING_FOR_FREE):
            break
        batch.append(number)
        padded, longest = total, wider
    return batch
