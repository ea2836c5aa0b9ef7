"""How engines are compared: each embeds the same cases, and its vectors are compared with those of the first.

Knows how to embed and to compare; knows nothing of how the result is shown.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias, Unpack, get_args

import numpy as np
from numpy.typing import NDArray

from nemovlm.choices import FLOOR
from nemovlm.embedder import Description, Embedder, Result
from nemovlm.engines.choice import default_model
from nemovlm.errors import ConfigurationError, NemoVLMError
from nemovlm.inputs import Modality, Passage, Role, Truncate, Vector
from nemovlm.models.catalogue import find_card
from nemovlm.models.tiling import NEMOTRON_TILING, Tiling
from nemovlm.parity.cases import TEXTS, Case, parity_set
from nemovlm.parity.result import Comparison, Difference, Parity, engine_name, model_on_engine
from nemovlm.settings import Options, Settings

_SAME_SCORE = 1e-5  # scores nearer to each other than this are a tie: float32 makes no more of them
_Scores: TypeAlias = NDArray[np.float64]


def compare(
    embedders: Sequence[Embedder], *, floor: float = FLOOR, opened: Callable[[Description], None] | None = None
) -> Parity:
    """Embed one set of cases with each of `embedders`, and compare all with the first. Blocks until that is done.

    They are opened one after the other, and each is closed before the next: no two models share a GPU's memory. What
    is asked depends on the model, as a local engine or the catalogue knows it: its tiles and its limits. An error of
    one case is part of the result.

    Args:
        embedders: Two or more.
        floor: The least cosine that counts as the same.
        opened: Called with each engine before it embeds.

    Raises:
        ConfigurationError: There are fewer than two engines, or their vectors have different dimensions.
        NemoVLMError: An engine cannot work at all: it is not here, does not load, is down, or wants a key.
    """
    if len(embedders) < 2:
        raise ConfigurationError("a comparison wants two engines or more, such as transformers,nim")
    results: list[list[Result]] = []
    with ExitStack() as stack:
        # Neither this nor trying a server loads weights: an engine that is missing, down or of another dimension is
        # known at once.
        engines = [stack.enter_context(embedder).describe() for embedder in embedders]
        _check_dimensions(engines)
        for embedder, engine in zip(embedders, engines, strict=True):
            if embedder.settings.remote:
                _smoke_test(embedder, engine)
        cases = parity_set(*_tiling_and_limits(embedders))
        for embedder, engine in zip(embedders, engines, strict=True):
            if opened:
                opened(engine)
            _smoke_test(embedder, engine)
            results.append(_embed(embedder, cases))
            embedder.close()
    return Parity(
        engines[0],
        tuple(
            Comparison(
                engine,
                floor,
                tuple(_difference(case, *pair) for case, *pair in zip(cases, results[0], ours, strict=True)),
                *_rank_agreement(cases, results[0], ours),
            )
            for engine, ours in zip(engines[1:], results[1:], strict=True)
        ),
    )


def open_engines(
    engines: str, *, model: str | None = None, served_model_name: str | None = None, **options: Unpack[Options]
) -> list[Embedder]:
    """Return an embedder for each engine that is named.

    Args:
        engines: The names of engines, separated by commas. A remote one may bring its own address, as in
            `nim=http://host:8000`; any other has the `base_url` of `options`.
        model: A model id or a checkpoint folder. Default: the model that the first engine would take by itself.
        served_model_name: What servers call the model. Default: `model`, unless that is a folder; then whatever
            they have.
        options: The settings of all engines.

    Raises:
        ConfigurationError: An engine does not exist, or a setting does not fit it.
        CheckpointError: The folder is no checkpoint.
    """
    embedders: list[Embedder] = []
    for entry in engines.split(","):
        name, _, address = entry.strip().partition("=")
        own: dict[str, Any] = {**options, "engine": name, "base_url": address or options.get("base_url")}
        settings = Settings.from_kwargs(model=model, **own)
        if not embedders:
            model = settings.model or default_model(settings)[0]
        name_there = served_model_name or (None if _is_folder(model) else model)
        embedders.append(Embedder(name_there if settings.remote else model, **own))
    return embedders


def _is_folder(model: str | None) -> bool:
    return model is not None and find_card(model) is None and Path(model).is_dir()


def _check_dimensions(engines: Sequence[Description]) -> None:
    reference = engines[0]
    for engine in engines:
        if engine.dimension != reference.dimension:
            raise ConfigurationError(
                f"{model_on_engine(engine)} has vectors of dimension {engine.dimension}, and "
                f"{model_on_engine(reference)} of dimension {reference.dimension}: they cannot be compared"
            )


def _smoke_test(embedder: Embedder, engine: Description) -> None:
    """Embed one text: an engine that cannot work at all fails here and once, and not in every case."""
    embedder.embed([Passage(TEXTS["short text"], label=engine_name(engine))])


def _tiling_and_limits(embedders: Sequence[Embedder]) -> tuple[Tiling | None, Mapping[Modality, int]]:
    """Return the tiles and limits of the model: from the first engine that has its files, else from the catalogue.

    Whether a model that servers alone know has vision is not known: it is shown images as the published models cut
    them. Its limits, which servers do not tell, are not tried.
    """
    knowing = next((embedder for embedder in embedders if not embedder.settings.remote), embedders[0])
    limits = knowing.describe().max_tokens
    if not limits and (card := find_card(knowing.model)):
        limits = {modality: card.max_tokens(modality) for modality in card.modalities}
    return knowing.tiling or (NEMOTRON_TILING if "image" in knowing.modalities else None), limits


def _embed(embedder: Embedder, cases: Sequence[Case]) -> list[Result]:
    """Return what each case became. All that share a role and a truncation are embedded together."""
    queries = [case for case in cases if case.role == "query"]
    results = dict(zip((case.name for case in queries), _embed_queries(embedder, queries), strict=True))
    for truncate in get_args(Truncate):
        passages = [case for case in cases if case.role == "passage" and case.truncate == truncate]
        pairs = [(case.name, Passage(case.text, case.image, case.name)) for case in passages]
        results.update(embedder.stream_results(pairs, truncate=truncate))
    return [results[case.name] for case in cases]


def _embed_queries(embedder: Embedder, cases: Sequence[Case]) -> list[Result]:
    try:
        return list(embedder.embed_queries([case.text or "" for case in cases]))
    except NemoVLMError as error:
        if len(cases) == 1:
            return [error]
    return [result for case in cases for result in _embed_queries(embedder, [case])]  # the others have vectors


def _difference(case: Case, theirs: Result, ours: Result) -> Difference:
    if isinstance(theirs, NemoVLMError) or isinstance(ours, NemoVLMError):
        errors = [result if isinstance(result, NemoVLMError) else None for result in (theirs, ours)]
        return Difference(case.name, None, None, *errors)
    one, other = theirs.astype(np.float64), ours.astype(np.float64)
    cosine = float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
    return Difference(case.name, min(cosine, 1.0), float(np.abs(one - other).max()))


def _rank_agreement(
    cases: Sequence[Case], theirs: Sequence[Result], ours: Sequence[Result]
) -> tuple[float | None, float | None]:
    """Return `same_first` and `rank_correlation` of a `Comparison`, over the cases that both engines embedded."""
    rows: dict[Role, list[tuple[Vector, Vector]]] = {"query": [], "passage": []}
    for case, one, other in zip(cases, theirs, ours, strict=True):
        if not isinstance(one, NemoVLMError) and not isinstance(other, NemoVLMError):
            rows[case.role].append((one, other))
    if not (rows["query"] and rows["passage"]):
        return None, None
    queries, passages = (np.array(rows[role], np.float64).swapaxes(0, 1) for role in ("query", "passage"))
    wanted, found = queries @ passages.swapaxes(1, 2)  # (queries, passages) of either engine
    firsts = [same_first(*scores) for scores in zip(wanted, found, strict=True)]
    correlations = [rank_correlation(*scores) for scores in zip(wanted, found, strict=True)]
    return float(np.mean(firsts)), float(np.mean(correlations))


def same_first(wanted: _Scores, found: _Scores) -> bool:
    """Return whether the passage that `found` (n,) ranks first is first in `wanted` (n,) as well, or tied with it."""
    return bool(wanted[found.argmax()] >= wanted.max() - _SAME_SCORE)


def rank_correlation(wanted: _Scores, found: _Scores) -> float:
    """Return Kendall's tau-b of two lists of scores (n,): 1 for the same order, -1 for the reverse, ties being ties."""
    one, other = (_order(scores) for scores in (wanted, found))
    if np.array_equal(one, other):
        return 1.0  # also where all are tied, for which the quotient has no value
    size = np.sqrt(np.square(one).sum() * np.square(other).sum())
    return float((one * other).sum() / size) if size else 0.0


def _order(scores: _Scores) -> _Scores:
    """Return (n, n) for scores (n,): whether the first of each pair is higher (1), lower (-1) or as high (0)."""
    apart = scores[:, None] - scores
    signs: _Scores = np.where(np.abs(apart) > _SAME_SCORE, np.sign(apart), 0.0)
    return signs
