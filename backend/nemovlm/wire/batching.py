"""Which items travel together: by kind, by count and by bytes, planned before anything is sent."""

from collections.abc import Mapping

from nemovlm.wire.nim import Entry


def next_request(entries: Mapping[int, Entry], max_items: int, max_bytes: int) -> list[int]:
    """Return the numbers of the entries that make the next request, given all that wait, the oldest first.

    The oldest is always among them; the others agree with it in `input_type` and `truncate`, which a request has
    once. They stay in order, and within `max_items` and `max_bytes`, unless the oldest alone is larger.
    """
    chosen: list[int] = []
    total = 0
    kind = None
    for number, entry in entries.items():
        kind = kind or (entry.input_type, entry.truncate)
        if (entry.input_type, entry.truncate) != kind:
            continue
        if chosen and (len(chosen) == max_items or total + entry.size > max_bytes):
            break
        chosen.append(number)
        total += entry.size
    return chosen
