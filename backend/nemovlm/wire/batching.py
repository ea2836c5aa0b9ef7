"""Which items travel together: by kind, by count and by bytes, planned before anything is sent."""

from collections.abc import Hashable, Mapping
from typing import Protocol

from nemovlm.inputs import Modality


class Parcel(Protocol):
    """One item as it travels, in whatever protocol."""

    @property
    def modality(self) -> Modality:
        """What the item consists of."""

    @property
    def group(self) -> Hashable:
        """What a request has once: only items that agree in it can share one."""

    @property
    def size(self) -> int:
        """How many bytes it adds to a request."""


def next_request(parcels: Mapping[int, Parcel], max_items: int, max_bytes: int) -> list[int]:
    """Return the numbers of the parcels that make the next request, given all that wait, the oldest first.

    The oldest is always among them; the others are of its group. They stay in order, and within `max_items` and
    `max_bytes`, unless the oldest alone is larger.
    """
    chosen: list[int] = []
    total = 0
    group = None
    for number, parcel in parcels.items():
        group = group or parcel.group
        if parcel.group != group:
            continue
        if chosen and (len(chosen) == max_items or total + parcel.size > max_bytes):
            break
        chosen.append(number)
        total += parcel.size
    return chosen
