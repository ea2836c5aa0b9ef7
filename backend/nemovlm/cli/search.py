"""The command `search`."""

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from nemovlm.choices import SearchMode
from nemovlm.cli.console import (
    BaseUrl,
    Db,
    Debug,
    Device,
    Engine,
    Json,
    command,
    open_index,
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
    from nemovlm.index import Hit

_INDENT = " " * 12  # under the name of the document


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
    mode: Annotated[
        SearchMode | None,
        typer.Option(help="By meaning, by words (which needs no model), or by both, the default.", show_default=False),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            help="Search only where this holds, such as year=2024, year>=2020, 'path~reports/*' (a pattern) or "
            "'team in legal,sales'; may be given again: then all have to hold.",
            show_default=False,
        ),
    ] = None,
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
    from nemovlm.index.filters import parse_filters
    from nemovlm.inputs import replace_surrogates
    from nemovlm.parity import model_on_engine

    if image is not None and questions:
        raise ConfigurationError("ask questions, or give a picture with --image; not both")
    asking = image is None and not questions and _at_a_terminal()
    if image is None and not asking and not (questions := questions or _lines(sys.stdin)):
        raise ConfigurationError("ask at least one question, or give one picture with --image")
    if asking and html is not None:
        raise ConfigurationError("--html is written once: name the questions in the command, or pipe them in")
    pages = open_index(db, with_model=mode != "text", engine=engine, base_url=base_url, device=device)
    meant = parse_filters(where or [], pages.fields)

    def answer(questions: Sequence[str]) -> list[Answer]:
        found = pages.search_many(questions, k, mode=mode, where=meant)
        return [Answer(*pair) for pair in zip(questions, found, strict=True)]

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
        answers = [Answer(readable_name(image.name), pages.search(image, k, mode=mode, where=meant))]
    if html is not None:  # first: whoever reads what is printed may stop before its end
        how = "by words" if mode == "text" else model_on_engine(pages.embedder.describe())
        subtitle = f"{len(pages)} pages in {readable_name(db)}; {how}"
        write(html, render_html(answers, title="Pages found", subtitle=subtitle))
    show(answers)


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
        stdout.print(Text(f"{rank:3}. {hit.score:.3f}  {where}").append(_places(hit), "dim"), soft_wrap=True)
        if text := snippet(hit.text, answer.question, max(40, stdout.width - len(_INDENT) - 4)):
            stdout.print(Text(_INDENT + text, style="dim"), soft_wrap=True)
    stdout.print("" if answer.hits else "     no page\n")


def _places(hit: "Hit") -> str:
    """Return where a hit of both rankings is in each of them."""
    if hit.by_vector is None or hit.by_text is None:
        return ""
    return f"  by meaning {hit.by_vector.rank}, by words {hit.by_text.rank}"
