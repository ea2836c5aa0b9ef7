"""The commands that change an index: `index` and `delete`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nemovlm.choices import PAGE_MEMORY, PAGE_TIMEOUT, Modality, VectorType
from nemovlm.cli.console import (
    BaseUrl,
    Db,
    Debug,
    Device,
    Engine,
    ExitCode,
    Model,
    command,
    open_index,
    open_or_create_index,
    say,
    stderr,
)
from nemovlm.errors import ConfigurationError

if TYPE_CHECKING:
    from nemovlm.index import AddReport, PageIndex

_SHOWN_ERRORS = 20


@command
def index(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="PDFs, and folders of PDFs. With --refresh-text: all in the index. With --optimize: none are needed.",
            show_default=False,
        ),
    ] = None,
    *,
    db: Db,
    model: Model = None,
    engine: Engine = None,
    base_url: BaseUrl = None,
    device: Device = None,
    modality: Annotated[Modality | None, typer.Option(help="What of a page is embedded. Default: all it can.")] = None,
    password: Annotated[list[str] | None, typer.Option(help="For encrypted PDFs; may be given again.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes to render pages in.")] = 1,
    page_timeout: Annotated[float, typer.Option(help="Seconds that a page may take to be read.")] = PAGE_TIMEOUT,
    page_memory: Annotated[float, typer.Option(help="MB of memory that it may take.")] = PAGE_MEMORY / 2**20,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            help="What is said of these documents, such as year=2024, to search only among them; may be given again.",
            show_default=False,
        ),
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(help="Of a new index: so many numbers of each vector.", show_default=False)
    ] = None,
    vectors: Annotated[
        VectorType | None, typer.Option(help="Of a new index: how numbers are kept.", show_default=False)
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="Of a new index: whose frequent words are no words to search for.", show_default=False),
    ] = None,
    refresh_text: Annotated[
        bool, typer.Option("--refresh-text", help="Read texts anew that an earlier version of this program has read.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read files, too, that have the size and date that they had.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Take out what is no more in the folders that are named.")
    ] = False,
    optimize: Annotated[
        bool, typer.Option("--optimize", help="Make searching as quick as it can be now, at the end.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Put the pages of PDFs into an index. What is there already is not done again."""
    from nemovlm.index import TextOptions
    from nemovlm.index.fields import parse_metadata

    if not paths and not refresh_text and not optimize:
        raise ConfigurationError("name PDFs, or folders of PDFs")
    if prune and not paths:
        raise ConfigurationError("--prune wants the folders whose documents may be gone")
    if not paths and not refresh_text:
        _optimize(open_index(db, with_model=False), db)
        return
    texts = None if language is None else TextOptions(language=language)
    pages = open_or_create_index(
        db,
        model,
        vectors=vectors,
        texts=texts,
        engine=engine,
        base_url=base_url,
        device=device,
        dimensions=dimensions,
    )
    if modality is None and "image" not in pages.embedder.modalities:
        say("pages are embedded by their text layer, because this model reads text only")
    report = _add(
        pages,
        db,
        paths,
        modality=modality,
        metadata=parse_metadata(metadata, pages.fields) if metadata else None,
        password=password,
        workers=workers,
        page_timeout=page_timeout,
        page_memory=int(page_memory * 2**20),
        refresh_text=refresh_text,
        verify=verify,
        prune=prune,
    )
    for error in report.failed[:_SHOWN_ERRORS]:
        say(f"left out: {error}", style="yellow")
    if len(report.failed) > _SHOWN_ERRORS:
        say(f"… and {len(report.failed) - _SHOWN_ERRORS} more")
    say(f"{report}; the index in {db} has {len(pages)} pages")
    if report.outdated:
        say(f"{report.outdated} of them have texts as an earlier version read them; --refresh-text reads them anew")
    if optimize:
        _optimize(pages, db)
    if report.failed:
        raise typer.Exit(ExitCode.PARTIAL)


@command
def delete(
    document: Annotated[Path, typer.Argument(help="The PDF, by the path that it was indexed from.")],
    db: Db,
    debug: Debug = False,
) -> None:
    """Take a document out of an index."""
    from nemovlm.index import PageIndex

    pages = PageIndex(db)
    if not (count := pages.delete(document)):
        raise ConfigurationError(f"{document} is not in {db}; it has: {', '.join(pages.documents()) or 'nothing'}")
    say(f"{count} pages of {document} deleted; the index in {db} has {len(pages)}")


def _add(pages: "PageIndex", db: Path, paths: list[Path] | None, **options: Any) -> "AddReport":
    """Add PDFs, or those that the index has, and show how far it is."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from nemovlm.index import path_of

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("pages", total=None)
        try:
            return pages.add(
                paths or [path_of(document) for document in pages.documents()],
                progress=lambda done, total: bar.update(task, completed=done, total=total),
                **options,
            )
        except KeyboardInterrupt:
            bar.stop()
            say(f"the index in {db} keeps {len(pages)} pages; the same command goes on from there")
            raise


def _optimize(pages: "PageIndex", db: Path) -> None:
    described = pages.optimize()
    kinds = ", ".join(f"{index.column} ({index.kind})" for index in described.indexes)
    say(f"the index in {db} has {described.pages} pages, all of them in its indexes on {kinds}")
