"""The commands that make and use vectors: `index`, `search`, `embed` and `delete`."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from nemovlm.choices import PAGE_MEMORY, PAGE_TIMEOUT, Modality
from nemovlm.cli.console import (
    BaseUrl,
    Db,
    Debug,
    Device,
    Engine,
    ExitCode,
    Json,
    Model,
    command,
    open_embedder,
    open_index,
    open_or_create_index,
    print_json,
    say,
    stderr,
    stdout,
    write,
)
from nemovlm.errors import ConfigurationError
from nemovlm.paths import readable_name

if TYPE_CHECKING:
    from nemovlm.cli.report import Answer

_SHOWN_ERRORS = 20
_INDENT = " " * 12  # under the name of the document


@command
def index(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="PDFs, and folders of PDFs. With --refresh-text: all in the index.", show_default=False),
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
    refresh_text: Annotated[
        bool, typer.Option("--refresh-text", help="Read texts anew that an earlier version of this program has read.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Put the pages of PDFs into an index. What is there already is not done again."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from nemovlm.index import path_of

    if not paths and not refresh_text:
        raise ConfigurationError("name PDFs, or folders of PDFs")
    pages = open_or_create_index(db, model, engine=engine, base_url=base_url, device=device)
    if modality is None and "image" not in pages.embedder.modalities:
        say("pages are embedded by their text layer, because this model reads text only")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("pages", total=None)
        try:
            report = pages.add(
                paths or [path_of(document) for document in pages.documents()],
                modality=modality,
                password=password,
                workers=workers,
                page_timeout=page_timeout,
                page_memory=int(page_memory * 2**20),
                refresh_text=refresh_text,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except KeyboardInterrupt:
            bar.stop()
            say(f"the index in {db} keeps {len(pages)} pages; the same command goes on from there")
            raise
    for error in report.failed[:_SHOWN_ERRORS]:
        say(f"left out: {error}", style="yellow")
    if len(report.failed) > _SHOWN_ERRORS:
        say(f"… and {len(report.failed) - _SHOWN_ERRORS} more")
    say(f"{report}; the index in {db} has {len(pages)} pages")
    if report.outdated:
        say(f"{report.outdated} of them have texts as an earlier version read them; --refresh-text reads them anew")
    if report.failed:
        raise typer.Exit(ExitCode.PARTIAL)


@command
def search(
    questions: Annotated[
        list[str] | None, typer.Argument(help="Questions, each in quotes.", show_default=False)
    ] = None,
    *,
    db: Db,
    image: Annotated[Path | None, typer.Option(help="Search by a picture instead.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Pages to find for each question.")] = 5,
    html: Annotated[Path | None, typer.Option(help="Write a page with thumbnails to this file.")] = None,
    as_json: Json = False,
    engine: Engine = None,
    base_url: BaseUrl = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Find the pages that answer questions."""
    from nemovlm.cli.report import Answer, render_html
    from nemovlm.inputs import replace_surrogates
    from nemovlm.parity import model_on_engine

    if (image is None) == (not questions):
        raise ConfigurationError("ask at least one question, or give one picture with --image")
    pages = open_index(db, engine=engine, base_url=base_url, device=device)
    answers = [Answer(question, pages.search(question, k)) for question in map(replace_surrogates, questions or [])]
    if image is not None:
        answers = [Answer(readable_name(image.name), pages.search(image, k))]
    if html is not None:  # first: whoever reads what is printed may stop before its end
        subtitle = f"{len(pages)} pages in {readable_name(db)}; {model_on_engine(pages.embedder.describe())}"
        write(html, render_html(answers, title="Pages found", subtitle=subtitle))
    if as_json:
        print_json([answer.as_dict() for answer in answers], indent=2)
    else:
        for answer in answers:
            _print(answer)


@command
def embed(
    texts: Annotated[list[str] | None, typer.Argument(help="Texts, each in quotes.", show_default=False)] = None,
    *,
    image: Annotated[list[Path] | None, typer.Option(help="An image file; may be given again.")] = None,
    query: Annotated[bool, typer.Option("--query", help="Embed texts as queries, not as passages.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write a NumPy file, (n, d) float32, instead of JSON.")] = None,
    model: Model = None,
    engine: Engine = None,
    base_url: BaseUrl = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Embed texts and images: one line of JSON each, in the order given, texts first."""
    import numpy as np

    from nemovlm.inputs import Passage, replace_surrogates

    texts, images = list(map(replace_surrogates, texts or [])), image or []
    if (not texts and not images) or (query and images):
        raise ConfigurationError("give texts, or images with --image; a query is always a text")
    embedder = open_embedder(model, engine=engine, base_url=base_url, device=device)
    names = list(map(readable_name, images))
    passages = [Passage(text=text) for text in texts]
    passages += [Passage(image=path, label=name) for path, name in zip(images, names, strict=True)]
    vectors = embedder.embed_queries(texts) if query else embedder.embed(passages)
    if out is not None:
        buffer = BytesIO()
        np.save(buffer, vectors)
        write(out, buffer.getvalue())
        return
    for name, vector in zip([*texts, *names], vectors, strict=True):
        print_json({"input": name, "embedding": [round(float(x), 8) for x in vector]})


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


def _print(answer: "Answer") -> None:
    from nemovlm.cli.report import snippet

    stdout.print(Text(answer.question, style="bold"))
    for rank, hit in enumerate(answer.hits, 1):
        where = f"{Path(hit.document).name}  page {hit.page + 1} of {hit.total}"
        stdout.print(Text(f"{rank:3}. {hit.score:.3f}  {where}"), soft_wrap=True)
        if text := snippet(hit.text, answer.question, max(40, stdout.width - len(_INDENT) - 4)):
            stdout.print(Text(_INDENT + text, style="dim"), soft_wrap=True)
    stdout.print("" if answer.hits else "     no page: the index is empty\n")
