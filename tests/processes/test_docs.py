"""What README and docs/ show is run: every block of Python, and the commands."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nemovlm import Embedder
from nemovlm.server import make_app
from tests.support.checkpoints import case_image
from tests.support.command import nemovlm_here
from tests.support.servers import ready, running

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REMOTE = (ROOT / "docs" / "remote.md").read_text()
PARITY = (ROOT / "docs" / "parity.md").read_text()
LANGCHAIN = (ROOT / "docs" / "langchain.md").read_text()
LLAMAINDEX = (ROOT / "docs" / "llamaindex.md").read_text()
PAGE_INDEX = (ROOT / "docs" / "page-index.md").read_text()
TESTING = (ROOT / "docs" / "testing-your-rag.md").read_text()
THE_SERVER = "http://127.0.0.1:8000"  # as README and docs/parity.md call it


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def desk(samples: Path, tmp_path: Path) -> Path:
    """A folder with `pdfs/` in it, as README assumes."""
    shutil.copytree(samples, tmp_path / "pdfs")
    return tmp_path


@pytest.fixture
def desk_with_indexes(desk: Path, library_index: Path) -> Path:
    """The same with the indexes that README makes, whose pages are known by content and not embedded again.

    `library_index` shows that the command makes them from nothing.
    """
    for name in ("index", "my-index"):
        shutil.copytree(library_index / "db", desk / name)
    return desk


def run(code: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def served_pocket() -> Iterator[str]:
    """The address of a server over the pocket model."""
    with running(make_app(Embedder("nemovlm/pocket"))) as address:
        yield ready(address)


@pytest.mark.parametrize("code", blocks(README, "python"), ids=lambda code: code.splitlines()[0])
def test_python_blocks_run(code: str, desk_with_indexes: Path, request: pytest.FixtureRequest) -> None:
    """Each block runs by itself in a fresh process, prints something, and finds the right page."""
    if THE_SERVER in code:
        code = code.replace(THE_SERVER, request.getfixturevalue("served_pocket"))
    done = run(code, desk_with_indexes)
    assert done.returncode == 0, done.stderr
    if "leave do I get" in code:
        assert "page 4" in done.stdout
    assert done.stdout


def test_the_block_about_parity_runs(vl_folder: Path, served_vl: str, tmp_path: Path) -> None:
    """It says that two engines agree. What they compute with makes no difference: here, a tiny checkpoint."""
    (code,) = blocks(PARITY, "python")
    code = code.replace('"nemovlm/pocket", base_url', '"tiny-vl", base_url').replace("nemovlm/pocket", str(vl_folder))
    code = code.replace(THE_SERVER, served_vl)
    done = run(code, tmp_path)
    assert done.stdout.startswith("2 engines agree: none of 47 cases is below 0.999\nTrue "), done.stderr


def test_commands_run(desk_with_indexes: Path) -> None:
    """The commands of the quick start work as printed."""
    desk = desk_with_indexes
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for line in blocks(README, "bash")[0].splitlines():
        done = subprocess.run(
            line, shell=True, cwd=desk, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode in {0, 3}, done.stderr
    assert "staff-handbook.pdf  page 3 of 5" in done.stdout
    assert (desk / "answers.html").stat().st_size > 10_000


@pytest.mark.parametrize("code", blocks(REMOTE, "python"), ids=["embed", "errors"])
def test_python_blocks_about_servers_run(code: str, served_vl: str, tmp_path: Path) -> None:
    """Against a server that sees, each block prints what it promises."""
    case_image("portrait").save(tmp_path / "page.png")
    done = run(code, tmp_path, BASE_URL=served_vl)
    assert done.returncode == 0, done.stderr
    if "failed" in code:
        assert done.stdout.startswith("[True, False] 400 item 1: 127.0.0.1:")
        assert "exceeds maximum allowed token size 1024; shorten the text" in done.stdout
    else:
        assert done.stdout.startswith("tiny-vl 128\n")
        assert " tokens\n" in done.stdout


def test_parity_prints_what_is_shown(vl_folder: Path, served_vl: str) -> None:
    """The command with its output gives the same rows, down to the cases, and the last line; numbers may be others."""
    text = PARITY.replace("0.9999", "0.99999").replace("nemovlm/pocket", str(vl_folder))  # which rounding hurts less
    command, *shown = blocks(text, "console")[1].replace(THE_SERVER, served_vl).splitlines()
    given = nemovlm_here(*command.split()[2:], code=1)[0].splitlines()
    rows = shown.index(next(line for line in shown if line.startswith("not the same ")))
    assert [line[:20] for line in given[:rows]] == [line.ljust(20)[:20] for line in shown[:rows]]
    assert given[0].rstrip() == shown[0]
    assert given[-1].startswith(shown[-1].partition("nim (")[0])


def test_the_page_about_langchain_runs(desk: Path, vl_folder: Path, served_vl: str) -> None:
    """Its blocks run one after the other, as a reader would type them, and print what the page says."""
    code = "\n".join(blocks(LANGCHAIN, "python")).replace("nvidia/llama-nemotron-embed-vl-1b-v2", str(vl_folder))
    done = run(code.replace(THE_SERVER, served_vl), desk)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "['tiny-vl'] 128"
    assert [line for line in lines if "skipped" in line] == ["8 pages added, 0 skipped", "0 pages added, 8 skipped"]
    assert re.fullmatch(r"!\[annual-report\.pdf page \d\]\(pictures/[0-9a-f]{64}\.png\)", lines[4])
    assert [line.split()[0] for line in lines if line.endswith("tokens computed")][1] == "0"
    assert [line.split()[2:] for line in lines if line.startswith("page ")] == [["of", "8", "finance"]] * 3
    assert [line for line in lines if line.startswith(("text ", "image "))][1::2] == ["image image/png"] * 2


def test_the_page_about_llamaindex_runs(desk: Path, vl_folder: Path, served_vl: str) -> None:
    """Its blocks run one after the other, as a reader would type them, and print what the page says."""
    code = "\n".join(blocks(LLAMAINDEX, "python")).replace("nvidia/llama-nemotron-embed-vl-1b-v2", str(vl_folder))
    done = run(code.replace(THE_SERVER, served_vl), desk)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "['tiny-vl'] 128" in lines
    assert [line for line in lines if "embedded" in line] == ["8 pages embedded", "0 pages embedded"]
    assert "2 pages" in lines
    assert lines[lines.index("2 pages") - 1] == "3"  # the page that is sought by its own picture
    assert [line.split()[2:] for line in lines if line.startswith("page ")] == [["of", "8", "finance"]] * 3
    assert lines[-2].startswith("ImageDocument ")


def test_the_page_about_the_index_runs(desk: Path) -> None:
    """Its blocks run one after the other, and the right page comes first, with what was said of its document."""
    done = run("\n".join(blocks(PAGE_INDEX, "python")), desk)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    first = next(line for line in lines if " page " in line)
    assert "staff-handbook.pdf page 4 {'team': 'staff', 'year': 2024} Rank(rank=1, " in first
    assert "'team': <class 'str'>, 'year': <class 'int'>" in done.stdout
    assert lines[-1] == f"text INVERTED {lines[-2].split()[0]} in it, 0 not yet"


# docs/testing-your-rag.md: its blocks are files of a user's tests, and run as such

PAGES, IN_LANGCHAIN, IN_LLAMAINDEX, SHARED, SPACE = blocks(TESTING, "python")
USERS_TESTS = pytest.mark.parametrize("code", [IN_LANGCHAIN, IN_LLAMAINDEX], ids=["langchain", "llamaindex"])
NO_NETWORK = ["--disable-socket", "--allow-unix-socket"]  # as the page says it
FAKES = """
from pathlib import Path

import langchain_nemovlm
import llamaindex_nemovlm
from langchain_core.embeddings import DeterministicFakeEmbedding
from llama_index.core import MockEmbedding

langchain_nemovlm.NemoVLMEmbeddings = lambda **_: DeterministicFakeEmbedding(size=2048)
llamaindex_nemovlm.NemoVLMEmbedding = lambda **_: MockEmbedding(embed_dim=2048)


@pytest.fixture
def tmp_path():  # documents name the folder of their pictures: with another each time, the fake would have other luck
    return Path("pictures")
"""


def users_pytest(folder: Path, conftest: str, code: str, *options: str, **environment: str) -> str:
    """Run a user's test file with its conftest, warnings being errors, and return what pytest prints."""
    (folder / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_rag.py").write_text(code)
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"} | environment
    command = [sys.executable, "-m", "pytest", "--color=no", *options]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    return done.stdout + done.stderr


@USERS_TESTS
def test_a_users_test_passes_without_a_network(code: str, tmp_path: Path) -> None:
    """It has less than 20 lines, and with pages as pictures it passes where sockets are blocked."""
    assert len(code.splitlines()) < 20
    assert f"pytest {' '.join(NO_NETWORK)}\n" in TESTING
    assert " 1 passed in " in (said := users_pytest(tmp_path, PAGES, code, *NO_NETWORK)), said


@USERS_TESTS
def test_a_users_test_fails_with_fakes(code: str, tmp_path: Path) -> None:
    """With hash vectors or constants the pages that are retrieved are the wrong ones, and it says so."""
    said = users_pytest(tmp_path, PAGES + FAKES, code)
    assert " 1 failed in " in said
    assert re.search(r"^E +assert [0-5] >= 6$", said, re.MULTILINE), said


@USERS_TESTS
def test_a_users_test_takes_its_model_from_the_environment(code: str, tmp_path: Path) -> None:
    """The variable decides, though the file names the pocket model."""
    said = users_pytest(tmp_path, PAGES, code, NEMOVLM_MODEL="nemovlm/another")
    assert " 1 failed in " in said
    assert "UnknownModelError: there is no model 'nemovlm/another'" in said, said


def test_pages_are_embedded_once(tmp_path: Path, vl_folder: Path) -> None:
    """The fixture of the session leaves vectors in pytest's cache; the next run computes none."""
    code = """
def test_the_store(store):
    usage = store.embeddings.embedder.usage
    print(len(store.store), "pages,", usage.tokens, "tokens")
"""
    first, second = (users_pytest(tmp_path, PAGES + SHARED, code, "-s", NEMOVLM_MODEL=str(vl_folder)) for _ in range(2))
    assert re.search("8 pages, [1-9][0-9]* tokens", first), first
    assert "8 pages, 0 tokens" in second, second


def test_the_space_of_the_pocket_model_is_the_one_that_is_shown(tmp_path: Path) -> None:
    """The page shows what is printed."""
    done = run(SPACE, tmp_path)
    assert done.stdout.strip() == SPACE.rpartition("# ")[2].strip(), done.stderr


def test_every_setting_is_documented() -> None:
    """The tables of settings name every knob, and no other."""
    from nemovlm.settings import EmbedderFields

    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", README.partition("## Settings")[2] + REMOTE, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == set(EmbedderFields.model_fields)


FOLDERS = (".github", "backend", "benchmarks", "docs", "examples", "training")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Every file that a document links to, or names in backticks with its folder, is there."""
    text = path.read_text()
    names = re.findall(r"\]\((?!http|#)([^)#]+)", text) + re.findall(
        r"`((?:scripts|benchmarks|tests|backend|examples)/[\w/.]+)`", text
    )
    assert not [name for name in names if not ((path.parent / name).exists() or (ROOT / name).exists())]


def test_the_model_table_is_the_catalogue() -> None:
    """README lists every model of the catalogue with its dimension."""
    from nemovlm.models.catalogue import CATALOGUE

    for card in CATALOGUE:
        row = next(line for line in README.splitlines() if line.startswith(f"| `{card.id}`"))
        assert f" {card.dimension} " in row
        assert ("image" in row) == ("image" in card.modalities)
