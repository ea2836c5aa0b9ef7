"""What the commands share: the application, their options, what they say, and how they end.

Results go to standard output, everything said about them to standard error. What computes is imported by the command
that needs it: this, and the files of the commands, load nothing heavy, so that the others answer at once.
"""

from collections.abc import Callable
from enum import IntEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, Unpack

from nemovlm.choices import EngineName, VectorType
from nemovlm.cli.startup import importing
from nemovlm.errors import ConfigurationError, MissingExtraError, NemoVLMError, one_line
from nemovlm.paths import local_path, readable_name

try:
    import typer
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text
except ImportError as missing:
    raise MissingExtraError("the nemovlm command", "cli") from missing

if TYPE_CHECKING:
    from nemovlm.embedder import Embedder
    from nemovlm.index import PageIndex, TextOptions
    from nemovlm.settings import Options, Settings

P = ParamSpec("P")

Db = Annotated[Path, typer.Option("--db", help="The folder of the index.", show_default=False)]
Model = Annotated[str | None, typer.Option(help="A model id (see `nemovlm models`) or a checkpoint folder.")]
Engine = Annotated[EngineName | None, typer.Option(help="Where the model runs. Default: auto.", show_default=False)]
BaseUrl = Annotated[str | None, typer.Option(help="The address of a remote engine.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. Default: the best there is.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Find the pages of PDFs that answer a question, with NVIDIA's multimodal embedding models.",
    epilog="Every setting can also be given as NEMOVLM_<NAME> in the environment.",
)
stdout = Console(highlight=False)
stderr = Console(stderr=True, highlight=False)


class ExitCode(IntEnum):
    """How a command ends that is not done (0) and was not used wrongly (2, which typer gives)."""

    ERROR = 1
    """It failed, or found something amiss."""
    PARTIAL = 3
    """It is done, but some documents or pages were left out."""
    INTERRUPTED = 130
    """Ctrl-C stopped it."""


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Make a command of `function`: its errors become one line and an exit code."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except NemoVLMError as error:
            if kwargs.get("debug"):
                raise
            say(f"error: {error}", style="red")
            raise typer.Exit(ExitCode.ERROR) from None
        except KeyboardInterrupt:
            say("stopped")
            raise typer.Exit(ExitCode.INTERRUPTED) from None

    app.command()(guarded)
    return guarded


def say(message: str, style: str | None = None) -> None:
    """Print one line to standard error, in which names of files may be no UTF-8."""
    stderr.print(Text(readable_name(message), style=style or ""), soft_wrap=True)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print one line of JSON, or several with `indent`, which stays JSON whatever the encoding of the output is."""
    import json

    stdout.out(json.dumps(value, indent=indent, ensure_ascii=stdout.encoding != "utf-8"))


def write(path: Path, content: str | bytes) -> None:
    """Write a file, and say so.

    Raises:
        ConfigurationError: It cannot be written.
    """
    try:
        local_path(path).write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {one_line(error)}") from error
    say(f"written: {path}")


def table() -> Table:
    """Return an empty table of names and values."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    return made


@importing()
def open_embedder(model: str | None = None, **options: "Unpack[Options]") -> "Embedder":
    """Make the embedder of a command, for the model chosen or the best that is here, and say which it is.

    Raises:
        NemoVLMError: A setting is wrong, or the engine or the model cannot be had.
    """
    from nemovlm.embedder import Embedder
    from nemovlm.settings import Settings

    name, why = choose_model(Settings.from_kwargs(model=model, **options))
    return announce(Embedder(name, **options), why)


def choose_model(settings: "Settings") -> tuple[str | None, str]:
    """Return the model that was chosen, or else the default, and why. None: what the server has."""
    from nemovlm.engines.choice import default_model

    return (settings.model, "chosen") if settings.model else default_model(settings)


def announce(embedder: "Embedder", why: str) -> "Embedder":
    """Say which model and engine an embedder has, and why; return it. Blocks like `Embedder.describe`."""
    from nemovlm.models.catalogue import POCKET
    from nemovlm.parity import model_on_engine

    say(f"model {model_on_engine(embedder.describe())}: {why}")
    if embedder.model == POCKET:
        say("it needs no download, reads print, and finds words rather than meanings; see `nemovlm models`")
    return embedder


@importing()
def open_index(db: Path, *, with_model: bool = True, **options: Any) -> "PageIndex":
    """Open an index that exists, with an embedder like the one that made it, which is announced, or with none.

    Raises:
        NemoVLMError: There is none, or it cannot be read, or its engine or model cannot be had.
    """
    from nemovlm.index import PageIndex

    if not with_model:
        return PageIndex(db)
    pages = PageIndex(db, **options)
    announce(pages.embedder, f"the index in {db} was made with it")
    return pages


@importing()
def open_or_create_index(
    db: Path,
    model: str | None,
    *,
    vectors: VectorType | None = None,
    texts: "TextOptions | None" = None,
    **options: "Unpack[Options]",
) -> "PageIndex":
    """Open an index with the model chosen, or that of the index, or the best that is here.

    A new one is not written before pages come; `vectors` and `texts` say how it keeps them.

    Raises:
        NemoVLMError: It cannot be read or has another space, or the engine or the model cannot be had.
    """
    from nemovlm.index import PageIndex, is_index
    from nemovlm.settings import Settings

    if is_index(db) and Settings.from_kwargs(model=model, **options).model is None:
        return open_index(db, vectors=vectors, texts=texts, **options)
    return PageIndex(db, open_embedder(model, **options), vectors=vectors, texts=texts)


def _version(wanted: bool) -> None:
    if wanted:
        from nemovlm import __version__

        stdout.print(f"nemovlm {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass
