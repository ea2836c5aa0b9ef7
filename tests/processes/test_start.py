"""What each command imports: it answers as soon as what it needs is there, and nothing else is loaded."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import ready

HEAVY = (
    *("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "vllm"),
    *("lance", "lancedb", "lance_namespace", "pyarrow"),  # pandas comes with pyarrow where it is installed
    *("fastapi", "uvicorn", "httpx", "jinja2", "langchain_core", "llama_index"),
    *("numpy", "PIL", "pypdfium2", "pydantic_settings"),
)
REPORTING = f"""
import sys
from nemovlm.cli import main
sys.argv[0] = "nemovlm"
try:
    main()
finally:
    print("loaded", *(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)
"""
EMBEDDER = {"numpy", "PIL", "pydantic_settings"}
LOCAL = {"torch", "tokenizers", "safetensors"}
INDEX = {"lance", "pyarrow"}


def loaded(said: str) -> set[str]:
    return set(said.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["--help"], set()),
        (["--version"], set()),
        (["search", "--help"], set()),
        (["models"], set()),
        (["doctor", "--model", "{tiny}"], EMBEDDER | {"torch"}),
        (["embed", "x", "--base-url", "{server}"], EMBEDDER | {"httpx"}),
        (["embed", "x", "--model", "{tiny}"], EMBEDDER | LOCAL),
        (["search", "x", "--db", "{db}", "--base-url", "{server}"], EMBEDDER | INDEX | {"httpx"}),
        (["search", "x", "--db", "{db}"], EMBEDDER | INDEX | LOCAL),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_nothing_else_is_loaded(
    arguments: list[str], needed: set[str], tiny_db: Path, vl_folder: Path, served_vl: str
) -> None:
    """A command loads what it uses: --help and the list of models nothing, a search on a server no torch."""
    places = {"tiny": vl_folder, "db": tiny_db, "server": served_vl}
    command = [sys.executable, "-c", REPORTING, *(argument.format(**places) for argument in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert loaded(done.stderr) <= needed


def test_a_server_loads_no_index(vl_folder: Path) -> None:
    """`nemovlm serve` has the model and what answers requests, and neither what reads PDFs nor what searches."""
    command = [sys.executable, "-c", REPORTING, "serve", "--model", str(vl_folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = next(line for line in process.stderr if line.startswith("listening at "))
            ready(line.split()[2].removesuffix("/v1;"))
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert loaded(said) <= EMBEDDER | LOCAL | {"fastapi", "uvicorn"}
