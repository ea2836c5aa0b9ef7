"""The commands that make and use vectors: `index`, `search`, `embed` and `delete`."""

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
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
from nemovlm.errors import ConfigurationError, NemoVLMError
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
        list[str] | None,
        typer.Argument(
            help="Questions, each in quotes. Without any they are asked for, one after the other, or read from "
            "standard input, one a line.",
            show_default=False,
        ),
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
    """Find the pages that answer questions.

    Without a question it asks for one after the other, until an empty line, Ctrl-D or Ctrl-C.
    """
    from nemovlm.cli.report import Answer, render_html
    from nemovlm.inputs import replace_surrogates
    from nemovlm.parity import model_on_engine

    if image is not None and questions:
        raise ConfigurationError("ask questions, or give a picture with --image; not both")
    asking = image is None and not questions and _at_a_terminal()
    if image is None and not asking and not (questions := questions or _lines(sys.stdin)):
        raise ConfigurationError("ask at least one question, or give one picture with --image")
    if asking and html is not None:
        raise ConfigurationError("--html is written once: name the questions in the command, or pipe them in")
    pages = open_index(db, engine=engine, base_url=base_url, device=device)

    def answer(questions: Sequence[str]) -> list[Answer]:
        return [Answer(*pair) for pair in zip(questions, pages.search_many(questions, k), strict=True)]

    def show(answers: Sequence[Answer]) -> None:
        if as_json:
            print_json([answer.as_dict() for answer in answers], indent=2)
        else:
            for answer in answers:
                _print(answer)

    if asking:
        _converse(lambda question: show(answer([question])), debug)
        return
    if image is None:
        answers = answer(list(map(replace_surrogates, questions or [])))
    else:
        answers = [Answer(readable_name(image.name), pages.search(image, k))]
    if html is not None:  # first: whoever reads what is printed may stop before its end
        subtitle = f"{len(pages)} pages in {readable_name(db)}; {model_on_engine(pages.embedder.describe())}"
        write(html, render_html(answers, title="Pages found", subtitle=subtitle))
    show(answers)


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


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()


def _lines(stream: Iterable[str]) -> list[str]:
    return [line.strip() for line in stream if line.strip()]


def _converse(answer: Callable[[str], None], debug: bool) -> None:
    """Answer questions from the terminal, until there is none: an empty line, Ctrl-D or Ctrl-C. One may fail."""
    with suppress(ImportError):  # Windows has none
        import readline  # noqa: F401 - input() edits lines with it, and remembers them

    say("ask a question; an empty line ends")
    with suppress(EOFError, KeyboardInterrupt):
        while question := input("> " if stdout.is_terminal else "").strip():
            try:
                answer(question)
            except NemoVLMError as error:
                if debug:
                    raise
                say(f"error: {error}", style="red")
        return
    stderr.print()  # the next prompt of the shell gets a line of its own


def _print(answer: "Answer") -> None:
    from nemovlm.cli.report import snippet

    stdout.print(Text(answer.question, style="bold"))
    for rank, hit in enumerate(answer.hits, 1):
        where = f"{Path(hit.document).name}  page {hit.page + 1} of {hit.total}"
        stdout.print(Text(f"{rank:3}. {hit.score:.3f}  {where}"), soft_wrap=True)
        if text := snippet(hit.text, answer.question, max(40, stdout.width - len(_INDENT) - 4)):
            stdout.print(Text(_INDENT + text, style="dim"), soft_wrap=True)
    stdout.print("" if answer.hits else "     no page: the index is empty\n")
