"""What a comparison of engines found: case by case, engine by engine, and in all.

Knows results; knows nothing of how they come about.
"""

from dataclasses import asdict, dataclass
from typing import Any

from nemovlm.embedder import Description
from nemovlm.errors import NemoVLMError


@dataclass(frozen=True)
class Difference:
    """What two engines made of one case: two vectors, one vector and one error, or two errors."""

    case: str
    """The name of the case."""
    cosine: float | None = None
    """The cosine similarity of the two vectors, 1 at the most. None where a vector is missing."""
    largest: float | None = None
    """The largest absolute difference between two numbers at the same place. None where a vector is missing."""
    reference_error: NemoVLMError | None = None
    """Why the reference made no vector."""
    error: NemoVLMError | None = None
    """Why the other engine made no vector."""

    @property
    def agreement(self) -> float:
        """The cosine. Where there is none: 1 if both engines raised the same kind of error, else -1."""
        if self.cosine is not None:
            return self.cosine
        return 1.0 if type(self.error) is type(self.reference_error) else -1.0

    def __str__(self) -> str:
        if self.cosine is not None:
            return f"{self.case}: cosine {self.cosine:.6f}, largest difference {self.largest:.1e}"
        ours, theirs = (_format_error(error) or "a vector" for error in (self.error, self.reference_error))
        return f"{self.case}: {ours}, where the reference has {theirs}"

    def as_dict(self) -> dict[str, Any]:
        """Return a dict that JSON can hold."""
        return {
            "case": self.case,
            "cosine": self.cosine,
            "largest": self.largest,
            "reference_error": _format_error(self.reference_error),
            "error": _format_error(self.error),
        }


@dataclass(frozen=True)
class Comparison:
    """One engine, compared with the reference."""

    engine: Description
    """The engine that is compared with the reference."""
    floor: float
    """The least cosine that counts as the same."""
    differences: tuple[Difference, ...]
    """One for each case, in the order of the cases."""
    same_first: float | None
    """The share of queries, 0 to 1, for which both engines rank the same passage first. None: nothing to rank."""
    rank_correlation: float | None
    """Kendall's tau-b, -1 to 1, of the engines' rankings of the passages, the mean over all queries. None: as above."""

    @property
    def worst(self) -> Difference:
        """The case with the least agreement: one that only one of the engines could embed, if there is any."""
        return min(self.differences, key=lambda difference: difference.agreement)

    @property
    def largest(self) -> float:
        """The largest absolute difference between two numbers at the same place, over all cases."""
        return max((difference.largest or 0.0 for difference in self.differences), default=0.0)

    @property
    def amiss(self) -> list[Difference]:
        """The cases below the floor and those that only one of the engines could embed, the worst first."""
        below = [difference for difference in self.differences if difference.agreement < self.floor]
        return sorted(below, key=lambda difference: difference.agreement)

    @property
    def fine(self) -> bool:
        """Whether every case reaches the floor."""
        return not self.amiss

    def as_dict(self) -> dict[str, Any]:
        """Return a dict that JSON can hold."""
        return {
            "engine": asdict(self.engine),
            "fine": self.fine,
            "worst": self.worst.as_dict(),
            "largest": self.largest,
            "same_first": self.same_first,
            "rank_correlation": self.rank_correlation,
            "differences": [difference.as_dict() for difference in self.differences],
        }


@dataclass(frozen=True)
class Parity:
    """Several engines, each compared with the first."""

    reference: Description
    """The first engine, which the others are compared with."""
    comparisons: tuple[Comparison, ...]
    """One for each of the other engines, in their order."""

    @property
    def fine(self) -> bool:
        """Whether all engines agree with the reference in every case."""
        return all(comparison.fine for comparison in self.comparisons)

    def __str__(self) -> str:
        count, floor = len(self.comparisons[0].differences), self.comparisons[0].floor
        if self.fine:
            return f"{len(self.comparisons) + 1} engines agree: none of {count} cases is below {floor}"
        apart = [
            f"{engine_name(engine.engine)} in {len(engine.amiss)} of {count} cases, the worst {engine.worst}"
            for engine in self.comparisons
            if not engine.fine
        ]
        return f"not the same as {engine_name(self.reference)} (floor {floor}): {'; '.join(apart)}"

    def as_dict(self) -> dict[str, Any]:
        """Return a dict that JSON can hold."""
        return {
            "fine": self.fine,
            "floor": self.comparisons[0].floor,
            "reference": asdict(self.reference),
            "comparisons": [comparison.as_dict() for comparison in self.comparisons],
        }


def engine_name(facts: Description) -> str:
    """Return what people call an engine: what it is, where it computes, and in which dtype."""
    return f"{facts.engine} ({facts.device}, {facts.dtype})"


def model_on_engine(facts: Description) -> str:
    """Return what people call a model together with the engine it runs on."""
    return f"{facts.model} on {engine_name(facts)}"


def _format_error(error: NemoVLMError | None) -> str | None:
    """Return the kind of an error and its message without the item that it names, because that is the case."""
    return None if error is None else f"{type(error).__name__}: {Exception.__str__(error)}"
