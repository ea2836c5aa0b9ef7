"""The commands that say what is here and how it does: `models`, `doctor` and `parity`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from nemovlm.choices import FLOOR, DtypeName
from nemovlm.cli.console import (
    BaseUrl,
    Debug,
    Device,
    Engine,
    ExitCode,
    Json,
    Model,
    command,
    open_embedder,
    open_or_create_index,
    print_json,
    say,
    stdout,
    table,
)

if TYPE_CHECKING:
    from nemovlm.embedder import Embedder
    from nemovlm.parity import Comparison

_SHOWN_CASES = 10


@command
def models(debug: Debug = False) -> None:
    """List the models that are known."""
    from nemovlm.models.catalogue import CATALOGUE

    for card in CATALOGUE:
        stdout.print(Text(card.id, style="bold"))
        for line in (
            card.note,
            f"dimension {card.dimension}; takes {', '.join(card.modalities)}; {card.license}",
            f"revision {card.revision}" if card.revision else "no revision is pinned: set NEMOVLM_REVISION",
        ):
            stdout.print(Text(f"    {line}"), soft_wrap=True)


@command
def doctor(
    db: Annotated[Path | None, typer.Option("--db", help="Look at this index too.", show_default=False)] = None,
    model: Model = None,
    engine: Engine = None,
    base_url: BaseUrl = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Say which model and engine would be used here, why, what is missing, and how servers and an index do."""
    from nemovlm.cli.doctor import Finding, examine_extras, examine_index, examine_servers

    rows = table()
    found: list[Finding] = []

    def add(findings: Iterable[Finding]) -> None:
        for finding in findings:
            found.append(finding)
            rows.add_row(Text(finding.name), Text(finding.text, style="" if finding.sound else "red"))

    try:
        add(examine_extras())
        if db is None:
            embedder = open_embedder(model, engine=engine, base_url=base_url, device=device)
        else:
            add(examine_index(db))
            embedder = open_or_create_index(db, model, engine=engine, base_url=base_url, device=device).embedder
        add(Finding(name, value) for name, value in _facts(embedder).items())
        add(examine_servers(embedder))
    finally:
        stdout.print(rows)
    if not all(finding.sound for finding in found):
        raise typer.Exit(ExitCode.ERROR)


@command
def parity(
    engines: Annotated[
        str,
        typer.Option(help="Engines, as in transformers,vllm,nim=http://host:8000; the first is the reference."),
    ],
    model: Model = None,
    base_url: Annotated[
        str | None, typer.Option(help="The address of remote engines without one of their own.")
    ] = None,
    served_model_name: Annotated[
        str | None, typer.Option(help="What servers call the model. Default: its id; for a folder, what they have.")
    ] = None,
    device: Device = None,
    dtype: Annotated[DtypeName | None, typer.Option(help="What local engines compute in.", show_default=False)] = None,
    floor: Annotated[float, typer.Option(min=0, max=1, help="The least cosine that counts as the same.")] = FLOOR,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Say whether engines give the same vectors for the same texts and images."""
    from nemovlm.parity import compare, engine_name, model_on_engine, open_engines

    found = compare(
        open_engines(
            engines, model=model, served_model_name=served_model_name, base_url=base_url, device=device, dtype=dtype
        ),
        floor=floor,
        opened=lambda facts: say(model_on_engine(facts)),
    )
    if as_json:
        print_json(found.as_dict(), indent=2)
    else:
        rows = table()
        rows.add_row("reference", Text(engine_name(found.reference)))
        rows.add_row("space", Text(found.reference.space))
        for comparison in found.comparisons:
            _add(rows, comparison)
        stdout.print(rows)
        stdout.print(Text(str(found), style="" if found.fine else "red"), soft_wrap=True)
    if not found.fine:
        raise typer.Exit(ExitCode.ERROR)


def _facts(embedder: "Embedder") -> dict[str, str]:
    """Return what an embedder is, for the table of `doctor`."""
    facts = embedder.describe()
    unpinned = "known to the server alone" if embedder.settings.remote else "of the folder"
    limits = ", ".join(f"{modality} {tokens}" for modality, tokens in facts.max_tokens.items())
    return {
        "model": f"{facts.model}, revision {facts.revision or unpinned}",
        "engine": f"{facts.engine}, because {facts.reason}",
        "device": f"{facts.device}, computing in {facts.dtype}",
        "vectors": f"dimension {facts.dimension}",
        "tokens": limits or "as many as the server allows",
        "space": facts.space,
    }


def _add(rows: Table, comparison: "Comparison") -> None:
    """Add what was found of one engine to the table of `parity`."""
    from nemovlm.parity import engine_name

    amiss, first, order = comparison.amiss, comparison.same_first, comparison.rank_correlation
    rows.add_row()
    for name, value in {
        "engine": engine_name(comparison.engine),
        "space": comparison.engine.space,
        "worst": str(comparison.worst),
        "largest difference": f"{comparison.largest:.1e}",
        "same first passage": "nothing to rank" if first is None else f"{first:.0%} of queries",
        "rank correlation": "nothing to rank" if order is None else f"{order:.3f}",
    }.items():
        rows.add_row(name, Text(value))
    for number, difference in enumerate(amiss[:_SHOWN_CASES]):
        rows.add_row("" if number else "not the same", Text(str(difference), style="red"))
    if len(amiss) > _SHOWN_CASES:
        rows.add_row("", Text(f"… and {len(amiss) - _SHOWN_CASES} more"))
