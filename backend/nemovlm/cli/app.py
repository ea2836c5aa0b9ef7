"""The commands: `nemovlm index | search | embed | delete | serve | models | doctor | parity`.

Results go to standard output, everything said about them to standard error. Exit codes: 0 done; 1 an error, in
one line; 2 wrong usage; 3 done, but some documents or pages were left out; 130 stopped by Ctrl-C.
"""

import json
from collections.abc import Callable, Iterable
from functools import wraps
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import numpy as np
from pydantic import SecretStr

from nemovlm import __version__
from nemovlm.embedder import Embedder
from nemovlm.engines.choice import default_model
from nemovlm.errors import ConfigurationError, MissingExtraError, NemoVLMError
from nemovlm.inputs import Modality, Passage
from nemovlm.models.catalogue import CATALOGUE, POCKET
from nemovlm.models.checkpoint import find_checkpoint
from nemovlm.parity import FLOOR, Comparison, compare, engine_name, open_engines
from nemovlm.server.vllm import Launch
from nemovlm.server.vllm import serve as launch_server
from nemovlm.settings import DtypeName, EngineName, Settings

try:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
    from rich.text import Text
except ImportError as missing:
    raise MissingExtraError("the nemovlm command", "cli") from missing

P = ParamSpec("P")

_LEFT_OUT = 3
_STOPPED = 130
_SHOWN_ERRORS = 20
_SHOWN_CASES = 10
_INDENT = " " * 12  # under the name of the document

# What each extra brings, by the modules that show it is there.
_EXTRAS = {
    "cli": ("typer", "rich", "jinja2"),
    "local": ("torch", "transformers", "safetensors", "huggingface_hub"),
    "index": ("lancedb", "pyarrow"),
    "langchain": ("langchain_core",),
    "llamaindex": ("llama_index",),
    "vllm": ("vllm",),
    "server": ("fastapi", "uvicorn", "orjson", "prometheus_client"),
}

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Find the pages of PDFs that answer a question, with NVIDIA's multimodal embedding models.",
    epilog="Every setting can also be given as NEMOVLM_<NAME> in the environment.",
)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

Db = Annotated[Path, typer.Option("--db", help="The folder of the index.", show_default=False)]
Model = Annotated[str | None, typer.Option(help="A model id (see `nemovlm models`) or a checkpoint folder.")]
Engine = Annotated[EngineName | None, typer.Option(help="Where the model runs. Default: auto.", show_default=False)]
BaseUrl = Annotated[str | None, typer.Option(help="The address of a remote engine.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps. Default: the best there is.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _command(function: Callable[P, None]) -> Callable[P, None]:
    """Make a command of `function`: its errors become one line and an exit code."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except NemoVLMError as error:
            if kwargs.get("debug"):
                raise
            _say(f"error: {error}", style="red")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            _say("stopped")
            raise typer.Exit(_STOPPED) from None

    app.command()(guarded)
    return guarded


@_command
def index(
    paths: Annotated[list[Path], typer.Argument(help="PDFs, and folders of PDFs.", show_default=False)],
    db: Db,
    model: Model = None,
    engine: Engine = None,
    base_url: BaseUrl = None,
    device: Device = None,
    modality: Annotated[Modality | None, typer.Option(help="What of a page is embedded. Default: all it can.")] = None,
    password: Annotated[str | None, typer.Option(help="For encrypted PDFs.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes to render pages in.")] = 1,
    debug: Debug = False,
) -> None:
    """Put the pages of PDFs into an index. What is there already is not done again."""
    from nemovlm.index import PageIndex

    embedder = _embedder(db, model=model, engine=engine, base_url=base_url, device=device)
    pages = PageIndex(db, embedder)
    if modality is None and "image" not in embedder.modalities:
        _say("pages are embedded by their text layer, because this model reads text only")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as bar:
        task = bar.add_task("pages", total=None)
        try:
            report = pages.add(
                paths,
                modality=modality,
                password=password,
                workers=workers,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        except KeyboardInterrupt:
            bar.stop()
            _say(f"the index in {db} keeps {len(pages)} pages; the same command goes on from there")
            raise
    for error in report.failed[:_SHOWN_ERRORS]:
        _say(f"left out: {error}", style="yellow")
    if len(report.failed) > _SHOWN_ERRORS:
        _say(f"… and {len(report.failed) - _SHOWN_ERRORS} more")
    _say(f"{report}; the index in {db} has {len(pages)} pages")
    if report.failed:
        raise typer.Exit(_LEFT_OUT)


@_command
def search(
    questions: Annotated[
        list[str] | None, typer.Argument(help="Questions, each in quotes.", show_default=False)
    ] = None,
    *,
    db: Db,
    image: Annotated[Path | None, typer.Option(help="Search by a picture instead.")] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Pages to find for each question.")] = 5,
    html: Annotated[Path | None, typer.Option(help="Write a page with thumbnails to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    engine: Engine = None,
    base_url: BaseUrl = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Find the pages that answer questions."""
    from nemovlm.cli.report import Answer, snippet
    from nemovlm.cli.report import html as render
    from nemovlm.index import PageIndex, embedder_of

    if (image is None) == (not questions):
        raise ConfigurationError("ask at least one question, or give one picture with --image")
    embedder = embedder_of(db, engine=engine, base_url=base_url, device=device)
    _announced(embedder, f"the index in {db} was made with it")
    pages = PageIndex(db, embedder)
    answers = [Answer(question, pages.search(question, k)) for question in questions or []]
    if image is not None:
        answers = [Answer(image.name, pages.search(image, k))]
    if as_json:
        _out.out(json.dumps([answer.as_dict() for answer in answers], indent=2, ensure_ascii=False))
    for answer in answers if not as_json else []:
        _out.print(Text(answer.question, style="bold"))
        for rank, hit in enumerate(answer.hits, 1):
            where = f"{Path(hit.document).name}  page {hit.page + 1} of {hit.total}"
            _out.print(Text(f"{rank:3}. {hit.score:.3f}  {where}"), soft_wrap=True)
            if text := snippet(hit.text, answer.question, max(40, _out.width - len(_INDENT) - 4)):
                _out.print(Text(_INDENT + text, style="dim"), soft_wrap=True)
        _out.print("" if answer.hits else "     no page: the index is empty\n")
    if html is not None:
        _write(html, render(answers, title="Pages found", subtitle=f"{len(pages)} pages in {db}; {_what(embedder)}"))


@_command
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
    texts, images = texts or [], image or []
    if (not texts and not images) or (query and images):
        raise ConfigurationError("give texts, or images with --image; a query is always a text")
    embedder = _embedder(None, model=model, engine=engine, base_url=base_url, device=device)
    passages = [Passage(text=text) for text in texts] + [Passage(image=path, label=str(path)) for path in images]
    vectors = embedder.embed_queries(texts) if query else embedder.embed(passages)
    if out is not None:
        buffer = BytesIO()
        np.save(buffer, vectors)
        _write(out, buffer.getvalue())
        return
    for name, vector in zip([*texts, *map(str, images)], vectors, strict=True):
        _out.out(json.dumps({"input": name, "embedding": [round(float(x), 8) for x in vector]}, ensure_ascii=False))


@_command
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
    _say(f"{count} pages of {document} deleted; the index in {db} has {len(pages)}")


@_command
def models(debug: Debug = False) -> None:
    """List the models that are known."""
    for card in CATALOGUE:
        _out.print(Text(card.id, style="bold"))
        for line in (
            card.note,
            f"{card.dimension} components; takes {', '.join(card.modalities)}; {card.licence}",
            f"revision {card.revision}" if card.revision else "no revision is pinned: set NEMOVLM_REVISION",
        ):
            _out.print(Text(f"    {line}"), soft_wrap=True)


@_command
def serve(
    context: typer.Context,
    vllm_flags: Annotated[
        list[str] | None, typer.Argument(metavar="[-- FLAGS]", help="With --vllm-server: more flags of vLLM's server.")
    ] = None,
    model: Model = None,
    engine: Engine = None,
    device: Device = None,
    host: Annotated[str, typer.Option(help="0.0.0.0 for all the network to see.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="What clients call the model; may be given again. Default: its id.")
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="NEMOVLM_SERVER_API_KEY", help="The key that clients must have. Default: none is wanted."),
    ] = None,
    max_queue: Annotated[int, typer.Option(min=1, help="Items that may wait; over that, 503.")] = 1024,
    max_body_mb: Annotated[int, typer.Option(min=1, help="MiB of one request; over that, 413.")] = 64,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of one image; over that, 413.")] = 8192 * 16384,
    grace: Annotated[int, typer.Option(min=0, help="Seconds to finish what was accepted when told to stop.")] = 60,
    vllm_server: Annotated[
        bool, typer.Option("--vllm-server", help="Start vLLM's own server instead, for engine='vllm-server'.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Serve a model over HTTP, in the protocol of NVIDIA's embedding NIM."""
    if vllm_server:
        _refuse(context, ("engine", "device", "max_queue", "max_body_mb", "max_pixels"))
        names, flags = tuple(served_model_name or ()), tuple(vllm_flags or ())
        _serve_vllm(model, Launch(host=host, port=port, names=names, api_key=api_key, flags=flags, grace=grace))
        return
    if vllm_flags:
        raise ConfigurationError(f"{' '.join(vllm_flags)} would be for --vllm-server, which was not given")
    from nemovlm.server import ServerOptions
    from nemovlm.server import serve as run

    embedder = _embedder(None, model=model, engine=engine, device=device)
    options = ServerOptions(
        names=tuple(served_model_name or ()),
        api_key=SecretStr(api_key) if api_key else None,
        max_queue=max_queue,
        max_body_bytes=max_body_mb * 2**20,
        max_pixels=max_pixels,
    )

    def announce(address: str) -> None:
        _say(f"listening at {address}/v1; {address}/docs describes the routes; Ctrl-C stops")

    run(embedder, options, host=host, port=port, grace=grace, announce=announce)


@_command
def doctor(
    model: Model = None,
    engine: Engine = None,
    base_url: BaseUrl = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Say which model and engine would be used here, why, and what is missing."""
    table = _table()
    for extra, modules in _EXTRAS.items():
        absent = [module for module in modules if not find_spec(module)]
        found = "installed" if not absent else f"missing {', '.join(absent)}: pip install 'nemovlm[{extra}]'"
        table.add_row(f"extra {extra}", Text(found))
    try:
        embedder = _embedder(None, model=model, engine=engine, base_url=base_url, device=device)
        facts = embedder.describe()
    except NemoVLMError:
        _out.print(table)
        raise
    unpinned = "known to the server alone" if embedder.settings.remote else "of the folder"
    limits = ", ".join(f"{modality} {tokens}" for modality, tokens in facts.max_tokens.items())
    for name, value in {
        "model": f"{facts.model}, revision {facts.revision or unpinned}",
        "engine": f"{facts.engine}, because {facts.reason}",
        "device": f"{facts.device}, computing in {facts.dtype}",
        "vectors": f"{facts.dimension} components",
        "tokens": limits or "as many as the server allows",
        "space": facts.space,
    }.items():
        table.add_row(name, Text(value))
    sound = True
    if embedder.settings.remote:
        from nemovlm.cli.doctor import examine

        for finding in examine(embedder):
            sound &= finding.fine
            table.add_row(finding.name, Text(finding.seen, style="" if finding.fine else "red"))
    _out.print(table)
    if not sound:
        raise typer.Exit(1)


@_command
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Say whether engines give the same vectors for the same texts and images."""
    found = compare(
        open_engines(
            engines, model=model, served_model_name=served_model_name, base_url=base_url, device=device, dtype=dtype
        ),
        floor=floor,
        opened=lambda facts: _say(f"{facts.model} on {engine_name(facts)}"),
    )
    if as_json:
        _out.out(json.dumps(found.as_dict(), indent=2, ensure_ascii=False))
    else:
        table = _table()
        table.add_row("reference", Text(engine_name(found.reference)))
        table.add_row("space", Text(found.reference.space))
        for comparison in found.comparisons:
            _add(table, comparison)
        _out.print(table)
        _out.print(Text(str(found), style="" if found.fine else "red"), soft_wrap=True)
    if not found.fine:
        raise typer.Exit(1)


def _table() -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def _add(table: Table, comparison: Comparison) -> None:
    """Add what was found of one engine to the table of `parity`."""
    amiss, first, order = comparison.amiss, comparison.same_first, comparison.rank_correlation
    table.add_row()
    for name, value in {
        "engine": engine_name(comparison.engine),
        "space": comparison.engine.space,
        "worst": str(comparison.worst),
        "largest difference": f"{comparison.largest:.1e}",
        "same first passage": "nothing to rank" if first is None else f"{first:.0%} of queries",
        "rank correlation": "nothing to rank" if order is None else f"{order:.3f}",
    }.items():
        table.add_row(name, Text(value))
    for number, difference in enumerate(amiss[:_SHOWN_CASES]):
        table.add_row("" if number else "not the same", Text(str(difference), style="red"))
    if len(amiss) > _SHOWN_CASES:
        table.add_row("", Text(f"… and {len(amiss) - _SHOWN_CASES} more"))


def _version(wanted: bool) -> None:
    if wanted:
        _out.print(f"nemovlm {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


def _refuse(context: typer.Context, names: Iterable[str]) -> None:
    """Raise `ConfigurationError` if one of these options was given, because --vllm-server has no use for it."""
    for name in names:
        if (source := context.get_parameter_source(name)) and source.name != "DEFAULT":
            raise ConfigurationError(f"--{name.replace('_', '-')} makes no sense with --vllm-server")


def _serve_vllm(model: str | None, launch: Launch) -> None:
    settings = Settings.from_kwargs(model=model)
    if settings.remote:
        raise ConfigurationError("--vllm-server starts a server; leave out the base_url, or engine, of one that runs")
    name, why = (settings.model, "chosen") if settings.model else default_model(settings)
    checkpoint = find_checkpoint(name or "", settings.revision).with_max_tiles(settings.max_tiles)
    _say(f"model {checkpoint.card.id} on vLLM's server: {why}")

    def announce(address: str, prefixes: bool) -> None:
        _say(f"listening at {address}/v1; {address}/docs describes the routes; Ctrl-C stops")
        if not prefixes:
            _say(
                "its route /v2/embed knows no input_type, because the checkpoint has no prefixes for it, in "
                "config.json:task_instructions or config_sentence_transformers.json:prompts"
            )

    launch_server(checkpoint, settings, launch, announce)


def _embedder(
    db: Path | None,
    *,
    model: str | None = None,
    engine: EngineName | None = None,
    base_url: str | None = None,
    device: str | None = None,
) -> Embedder:
    """Make the embedder of a command: the model chosen, or that of the index, or the best that is here."""
    knobs: dict[str, Any] = {"engine": engine, "base_url": base_url, "device": device}
    settings = Settings.from_kwargs(model=model, **knobs)
    name, why = settings.model, "chosen"
    if name is None and db is not None:
        from nemovlm.index import embedder_of, is_index

        if is_index(db):
            return _announced(embedder_of(db, **knobs), f"the index in {db} was made with it")
    if name is None:
        name, why = default_model(settings)
    return _announced(Embedder(name, **knobs), why)


def _announced(embedder: Embedder, why: str) -> Embedder:
    _say(f"model {_what(embedder)}: {why}")
    if embedder.model == POCKET:
        _say("it needs no download, reads print, and finds words rather than meanings; see `nemovlm models`")
    return embedder


def _what(embedder: Embedder) -> str:
    facts = embedder.describe()
    return f"{facts.model} on {engine_name(facts)}"


def _write(path: Path, content: str | bytes) -> None:
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
    _say(f"written: {path}")


def _say(message: str, style: str | None = None) -> None:
    _err.print(Text(message, style=style or ""), soft_wrap=True)
