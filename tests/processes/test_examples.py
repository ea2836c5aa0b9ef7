"""Each script in examples/ is run as its reader would, in another folder, and prints what it promises.

All but one run over random weights, so what is asserted holds whichever pages are found.
"""

import os
import re
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from nemovlm import Page, iter_pages

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
QUESTION = "How many days of leave do I get?"
PARROT = """
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda


def init_chat_model(name):
    def answer(messages):
        types = [block["type"] for block in messages[0].content_blocks]
        question = messages[0].content_blocks[-1]["text"]
        return AIMessage(f"{types.count('image')} images, and the question: {question}")

    return RunnableLambda(answer)
"""


@pytest.fixture(scope="module")
def handbook(samples: Path) -> Path:
    """A PDF of five pages."""
    return samples / "staff-handbook.pdf"


@pytest.fixture(scope="module")
def pages(handbook: Path) -> dict[str, Page]:
    """Its pages, by their labels."""
    return {page.label: page for page in iter_pages(handbook)}


def run(script: str, *arguments: object, folder: Path, **environment: object) -> tuple[list[str], str]:
    """Run an example, warnings being errors; return the lines it printed, and what it said on standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{script}.py"), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, **{name: str(value) for name, value in environment.items()}},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines(), done.stderr


def test_every_example_has_a_test() -> None:
    """There are four, and for each script `test_<its name>` is in this file."""
    assert len(SCRIPTS) == 4
    assert [name for name in SCRIPTS if f"test_{name}" not in globals()] == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_example_is_short_and_says_how_to_run_it(script: str) -> None:
    """It has fewer than 45 lines; its docstring says what it shows, what to install, and the command."""
    code = (EXAMPLES / f"{script}.py").read_text()
    assert len(code.splitlines()) < 45
    assert re.match(rf'"""[A-Z].+\.\n\npip install \'nemovlm\[.+\npython {script}\.py.*\n', code)
    assert f"[`{script}.py`]({script}.py)" in (EXAMPLES / "README.md").read_text()


def test_index_and_ask(vl_folder: Path, handbook: Path, pages: dict[str, Page], tmp_path: Path) -> None:
    """Each question gets three pages, the best first, and the picture of the best is saved."""
    questions = [QUESTION, "What may a night in a hotel cost?"]
    lines, said = run(
        "index_and_ask", handbook, *questions, "--pictures", "best/pages", folder=tmp_path, NEMOVLM_MODEL=vl_folder
    )
    assert said == ""
    assert lines[0].startswith(f"indexing {handbook} with tiny-vl")
    assert lines[1:-10] == [*(f"{done}/5 pages" for done in range(1, 6)), "1 document: 5 pages embedded"]
    saved = set()
    for question, block in zip(questions, (lines[-10:-5], lines[-5:]), strict=True):
        assert block[:2] == ["", question]
        rows = [re.fullmatch(r"  (-?\d\.\d{3})  (staff-handbook page (\d)): (.*)", line) for line in block[2:]]
        scores, names, labels, texts = zip(*(row.groups() for row in rows if row), strict=True)
        assert len(set(labels)) == 3
        assert list(scores) == sorted(scores, key=float, reverse=True)
        assert all(text in pages[label].text for label, text in zip(labels, texts, strict=True))
        with Image.open(tmp_path / "best" / "pages" / f"{names[0]}.png") as picture:
            assert not ImageChops.difference(picture, pages[labels[0]].image).getbbox()
        saved.add(f"{names[0]}.png")
    assert {path.name for path in (tmp_path / "best" / "pages").iterdir()} == saved


def test_index_and_ask_finds_the_answer(handbook: Path, tmp_path: Path) -> None:
    """With the pocket model, by the text of pages: first the page that answers, with the line that does."""
    lines, said = run("index_and_ask", handbook, QUESTION, "--modality", "text", folder=tmp_path)
    assert said == ""
    assert "with nemovlm/pocket" in lines[0]
    assert re.search("staff-handbook page 4: Everybody has 28 days of annual leave", lines[-3])


def test_langchain_rag(vl_folder: Path, handbook: Path, pages: dict[str, Page], tmp_path: Path) -> None:
    """The message has two pages, the name of each before its own picture, and the question; the chat model gets it."""
    stub = tmp_path / "langchain" / "chat_models.py"  # that package is not installed here; one function of it is used
    stub.parent.mkdir()
    stub.write_text(PARROT)
    environment = {"NEMOVLM_MODEL": vl_folder, "PYTHONPATH": tmp_path}
    lines, said = run("langchain_rag", handbook, QUESTION, "--chat-model", "a:b", folder=tmp_path, **environment)
    assert said == ""
    assert [line.rpartition(": ")[2] for line in lines[:2]] == ["0 of 5 done", "4 of 5 done"]
    assert lines[2] == "the message for a chat model:"
    names, pictures = lines[3:7:2], lines[4:7:2]
    assert len(set(names)) == 2
    for name, picture in zip(names, pictures, strict=True):
        label = re.fullmatch(r"  staff-handbook\.pdf, page (\d):", name)[1]  # type: ignore[index]
        written = (tmp_path / "page-pictures" / f"{pages[label].image_sha256}.png").read_bytes()
        assert picture == f"  [image/png, {len(b64encode(written)) * 3 // 4000} kB]"
    assert lines[7:] == [f"  {QUESTION}", f"a:b: 2 images, and the question: {QUESTION}"]


def test_llamaindex_rag(vl_folder: Path, handbook: Path, pages: dict[str, Page], tmp_path: Path) -> None:
    """Two nodes are found, each with the picture and the text of its page."""
    lines, said = run("llamaindex_rag", handbook, QUESTION, folder=tmp_path, NEMOVLM_MODEL=vl_folder)
    assert all(part.startswith("Generating embeddings: ") for part in said.splitlines() if part.strip())
    assert lines[0] == f"{handbook}: 5 pages"
    found = []
    for place, picture, text in zip(lines[1::3], lines[2::3], lines[3::3], strict=True):
        label = re.fullmatch(r"-?\d\.\d{3}  staff-handbook\.pdf page (\d)", place)[1]  # type: ignore[index]
        assert picture == f"       picture: page-pictures/{pages[label].image_sha256}.png"
        assert (tmp_path / picture.split()[1]).exists()
        assert " ".join(pages[label].text.split()).startswith(text.removeprefix("       text:").strip())
        found.append(label)
    assert len(found) == len(set(found)) == 2


def test_server_and_clients(vl_folder: Path, tmp_path: Path) -> None:
    """All four ways give the same similarities, and vectors that are the same but for the last digits."""
    lines, said = run("server_and_clients", folder=tmp_path, NEMOVLM_MODEL=vl_folder)
    assert said == ""
    assert re.fullmatch(r"tiny-vl is served at http://127\.0\.0\.1:\d+/v1", lines[0])
    rows = [re.fullmatch(r"  (.{11}) \[(.+)\]  (\de[-+]\d\d)", line) for line in lines[2:]]
    clients, scores, differences = zip(*(row.groups() for row in rows if row), strict=True)
    assert [client.strip() for client in clients] == ["no server", "nemovlm", "plain HTTP", "OpenAI SDK"]
    assert len(set(scores)) == 1
    assert len(set(scores[0].split())) == 3
    assert max(map(float, differences)) < 1e-6
