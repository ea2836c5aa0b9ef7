"""Which items travel together: by group, by count and by bytes, planned before anything is sent."""

from collections.abc import Mapping

from nemovlm.wire.items import EncodedItem


def next_request(waiting: Mapping[int, EncodedItem], max_items: int, max_bytes: int) -> list[int]:
    """Return the numbers of the items that make the next request, given all that wait, the oldest first.

    The oldest is always among them; the others are of its group. They stay in order, and within `max_items` and
    `max_bytes`, unless the oldest alone is larger.
    """
    chosen: list[int] = []
    total = 0
    group = None
    for number, item in waiting.items():
        group = group or item.group
        if item.group != group:
            continue
        if chosen and (len(chosen) == max_items or total + item.size > max_bytes):
            break
        chosen.append(number)
        total += item.size
    return chosen
