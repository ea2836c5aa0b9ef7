"""Rankings of one question, by meaning and by words, made one."""

from collections.abc import Sequence
from dataclasses import dataclass

# Of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009, https://doi.org/10.1145/1571941.1572114), where 60 was
# found best, and moves little.
_FUSION = 60
DEPTH = 100
"""So many pages of each ranking are fused."""


@dataclass(frozen=True)
class Scored:
    """A row of a table in a ranking."""

    id: str
    address: int
    """Where the row is in that version of the table."""
    score: float


@dataclass(frozen=True)
class Rank:
    """A place in a ranking."""

    rank: int
    """1 for the best."""
    score: float


@dataclass(frozen=True)
class Placed:
    """A row that was found, with its places."""

    address: int
    score: float
    by_vector: Rank | None
    by_text: Rank | None


def fuse(by_vector: Sequence[Scored] | None, by_text: Sequence[Scored] | None, k: int) -> list[Placed]:
    """Return the k best rows of one ranking, with its scores, or of two, with those of reciprocal rank fusion.

    In each ranking, the best comes first, and each `id` once. A row that one of them has not counts there as worthless.
    """
    rankings = [_places(ranking) for ranking in (by_vector, by_text)]
    vector, text = rankings
    addresses = {row.id: row.address for row in (*(by_vector or ()), *(by_text or ()))}
    both = by_vector is not None and by_text is not None

    def score(name: str) -> float:
        places = [places[name] for places in rankings if name in places]
        return sum(1 / (_FUSION + place.rank) for place in places) if both else places[0].score

    # Python's sort keeps the order of equal ones: the nearest first.
    best = sorted(addresses, key=score, reverse=True)[:k]
    return [Placed(addresses[name], score(name), vector.get(name), text.get(name)) for name in best]


def _places(ranking: Sequence[Scored] | None) -> dict[str, Rank]:
    return {row.id: Rank(number, row.score) for number, row in enumerate(ranking or (), 1)}
