"""What `nemovlm doctor` finds out: which extras are installed, how the servers of an embedder do, and an index.

Knows the questions; knows nothing of how the findings are shown.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, ParamSpec

from nemovlm.errors import IndexStorageError, NemoVLMError
from nemovlm.models.catalogue import find_card
from nemovlm.paths import local_path

if TYPE_CHECKING:
    from PIL import Image

    from nemovlm.embedder import Embedder
    from nemovlm.inputs import Vector
    from nemovlm.wire.address import Address

P = ParamSpec("P")

# What each extra brings, by the modules that show it is there.
_EXTRAS = {
    "cli": ("typer", "rich", "jinja2"),
    "local": ("torch", "transformers", "safetensors", "huggingface_hub"),
    "index": ("lance", "pyarrow", "filelock"),
    "langchain": ("langchain_core",),
    "llamaindex": ("llama_index",),
    "vllm": ("vllm",),
    "server": ("fastapi", "uvicorn", "orjson", "prometheus_client"),
}
_TEXT = "How many days of leave do I get?"
_ROUNDS = 5
_SHOWN_MODELS = 6
_SHOWN_FILES = 3


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what was seen."""

    name: str
    text: str
    sound: bool = True
    """Whether that is as it should be."""


def examine_extras() -> Iterator[Finding]:
    """Yield for each extra whether it is installed, or which of its modules are missing, which is sound as well."""
    for extra, modules in _EXTRAS.items():
        absent = ", ".join(module for module in modules if not find_spec(module))
        text = f"missing {absent}: pip install 'nemovlm[{extra}]'" if absent else "installed"
        yield Finding(f"extra {extra}", text)


def examine_servers(embedder: "Embedder") -> Iterator[Finding]:
    """Yield what is found of the servers of an embedder, one after the other, and of their vectors.

    Blocks on the servers. Yields nothing for a local engine.
    """
    if not embedder.settings.remote:
        return
    for address in embedder.settings.addresses:
        yield _attempt(f"{address.host} health", _health, embedder, address)
        yield _attempt(f"{address.host} models", _models, embedder, address)
        yield _attempt(f"{address.host} space", _space, embedder, address)
    yield _attempt("text", _probe, lambda: embedder.embed_query(_TEXT), _ROUNDS)
    if "image" in embedder.modalities:
        yield _attempt("image", _probe, lambda: embedder.embed([_page()])[0], 1)


def examine_index(folder: Path) -> Iterator[Finding]:
    """Yield what is found of an index and of the PDFs in it. Writes nothing, and needs no model."""
    from nemovlm.index import path_of
    from nemovlm.index.store import PageStore
    from nemovlm.index.table import FORMAT
    from nemovlm.pdf import TEXT_VERSION

    try:
        if (store := PageStore.open(local_path(folder))) is None:
            yield Finding("index", f"there is none in {folder}", sound=False)
            return
        seen = store.examine(TEXT_VERSION)
        documents = sorted(store.documents())
    except IndexStorageError as error:
        yield Finding("index", str(error), sound=False)
        return
    gone = [document for document in documents if not path_of(document).exists()]
    mends = "the next `nemovlm index` mends it"
    yield Finding("index", f"pages {seen.rows - seen.doubled}, documents {len(documents)}")
    yield Finding("index model", store.meta["embedder"]["model"])
    yield Finding("index space", store.meta["space"])
    formats = f"{seen.format}, which the next `nemovlm index` makes {FORMAT}" if seen.format < FORMAT else seen.format
    yield Finding("index format", f"{formats}; vectors of {seen.dimension} {seen.vectors}")
    yield Finding("index fields", ", ".join(f"{name} ({kind.__name__})" for name, kind in seen.fields.items()))
    for index in seen.indexes:
        behind = f", {index.behind} to come" if index.behind else ""
        yield Finding(f"index on {index.column}", f"{index.kind}, {index.rows} rows{behind}, parts {len(index.parts)}")
    if seen.missing:
        lacking = f"made by another version: it lacks {', '.join(seen.missing)}; index the PDFs into another folder"
        yield Finding("index columns", lacking, sound=False)
    if seen.key:
        yield Finding("index key", "there: any number of processes may write at the same time")
    else:
        yield Finding(
            "index key", f"missing, so that two processes at the same time double pages; {mends}", sound=False
        )
    doubled = f"{seen.doubled} rows too many; {mends}" if seen.doubled else "none"
    yield Finding("index doubled pages", doubled, sound=not seen.doubled)
    refresh = f"`nemovlm index --db {folder} --refresh-text` reads them anew"
    old = f"of {seen.outdated} pages as an earlier version of nemovlm read them; {refresh}"
    yield Finding("index texts", old if seen.outdated else "as this version reads them", sound=not seen.outdated)
    joins = "; the next `nemovlm index` joins them" if seen.scattered else ""
    yield Finding("index fragments", f"{seen.fragments}, in {seen.versions} versions{joins}")
    more = ", …" if len(gone) > _SHOWN_FILES else ""
    names = f"gone, {len(gone)} of {len(documents)}: {', '.join(gone[:_SHOWN_FILES])}{more}; see `nemovlm delete`"
    yield Finding("index files", names if gone else "all there", sound=not gone)


def _attempt(name: str, look: Callable[P, tuple[str, bool]], *args: P.args, **kwargs: P.kwargs) -> Finding:
    try:
        return Finding(name, *look(*args, **kwargs))
    except NemoVLMError as error:
        return Finding(name, str(error), sound=False)


def _get(embedder: "Embedder", address: "Address", route: str) -> tuple[int, bytes]:
    from nemovlm import runtime
    from nemovlm.engines.remote.discovery import ask

    reply = runtime.run(ask(embedder.settings, address, route))
    return reply.status_code, reply.content


def _health(embedder: "Embedder", address: "Address") -> tuple[str, bool]:
    begun = time.perf_counter()
    status, _ = _get(embedder, address, "/health/ready")
    milliseconds = 1000 * (time.perf_counter() - begun)
    if address.hosted or status == HTTPStatus.NOT_FOUND:
        return "has no route for it", True
    ready = status == HTTPStatus.OK
    return f"{'ready' if ready else f'not ready ({status})'}, {milliseconds:.0f} ms", ready


def _models(embedder: "Embedder", address: "Address") -> tuple[str, bool]:
    from nemovlm.wire.replies import read_models

    status, content = _get(embedder, address, "/models")
    if status != HTTPStatus.OK:
        return f"answered {status}", False
    names = [model.id for model in read_models(content)]
    more = len(names) - _SHOWN_MODELS
    shown = ", ".join(names[:_SHOWN_MODELS]) + (f" and {more} more" if more > 0 else "")
    served = embedder.model in names
    return shown + ("" if served else f"; {embedder.model} is not among them"), served


def _probe(embed: "Callable[[], Vector]", rounds: int) -> tuple[str, bool]:
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        vector = embed()
        seconds.append(time.perf_counter() - begun)
    return f"dimension {vector.size}, {1000 * median(seconds):.0f} ms", True


def _space(embedder: "Embedder", address: "Address") -> tuple[str, bool]:
    """Compare what the server says of itself, as far as it does, and what the catalogue knows of the model."""
    card = find_card(embedder.model)
    status, content = _get(embedder, address, "/metadata")
    said: Any = None
    with suppress(ValueError):
        said = json.loads(content) if status == HTTPStatus.OK else None
    if isinstance(said, dict) and isinstance(theirs := said.get("space"), str):
        same = card is None or theirs.partition(";")[0] == embedder.space.partition(";")[0]
        return (theirs if same else f"{theirs}, which is not {embedder.space}"), same
    if card is None:
        return f"{embedder.model} is not in the catalogue; it has dimension {embedder.dimension}", True
    wanted = embedder.settings.dimensions or card.dimension
    same = embedder.dimension == wanted
    return f"dimension {embedder.dimension}, {'as' if same else f'not {wanted} as'} the catalogue says", same


def _page() -> "Image.Image":
    from PIL import Image, ImageDraw

    page = Image.new("RGB", (612, 792), "white")
    ImageDraw.Draw(page).text((72, 72), _TEXT, "black")
    return page
