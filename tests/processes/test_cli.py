"""The command line as a user meets it: its output and its exit codes.

What a process alone can show is shown by a process (`nemovlm`): the main job, exit codes, Ctrl-C, where output goes.
All else runs in the process of the tests (`nemovlm_here`).
"""

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from nemovlm import Embedder
from tests.support.books import numbered
from tests.support.command import COMMAND, nemovlm, nemovlm_here
from tests.support.old_index import with_old_texts, without_key
from tests.support.samples import QUESTIONS

SCANS = {("archive-bulletin.pdf", 1), ("archive-bulletin.pdf", 2)}  # pages of the sample library without a text layer


@pytest.fixture(scope="module")
def db(library_index: Path) -> Path:
    """The index of the sample library. Read only."""
    return library_index / "db"


def test_indexing_a_folder(library_index: Path) -> None:
    """With nothing chosen it says which model it takes and why, what that is good for, and what it has done."""
    said = (library_index / "said").read_text()
    assert "model nemovlm/pocket on transformers (cpu, float32): no model was chosen" in said
    assert "finds words rather than meanings" in said
    assert "text layer" not in said
    assert "6 documents: 33 pages embedded; the index in" in said


def test_the_right_page_comes_first(db: Path) -> None:
    """All five questions about the sample library find their page first."""
    out, _ = nemovlm("search", *(question.text for question in QUESTIONS), "--db", db, "--json")
    answers = json.loads(out)
    found = [(answer["hits"][0]["document"].split("/")[-1], answer["hits"][0]["page"]) for answer in answers]
    assert found == [(question.document, question.page) for question in QUESTIONS]


def test_questions_from_standard_input(tiny_db: Path, served_vl: str) -> None:
    """Piped in, one a line, questions are answered as those of the command are; blank lines are none."""
    command = [*COMMAND, "search", "--db", str(tiny_db), "--base-url", served_vl, "--json"]
    piped = subprocess.run(command, input=b"one\n\n two \n\xff\n", capture_output=True, check=True, timeout=60).stdout
    named = subprocess.run([*command, "one", "two", "\ufffd"], capture_output=True, check=True, timeout=60).stdout
    assert json.loads(piped) == json.loads(named)
    assert [answer["question"] for answer in json.loads(piped)] == ["one", "two", "\ufffd"]


AT_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C comes from it
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("end", ["\n", "\x04", "\x03"], ids=["empty line", "Ctrl-D", "Ctrl-C"])
def test_questions_at_a_terminal(end: str, tiny_db: Path, served_vl: str) -> None:
    """Without a question the command asks for one after the other; one that fails is told, and it goes on."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", AT_TERMINAL, *COMMAND, "search", "--db", str(tiny_db), "--base-url", served_vl]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    environment = {**os.environ, "TERM": "dumb"}
    with subprocess.Popen(command, **streams, env=environment, start_new_session=True) as process:  # type: ignore[call-overload]
        os.close(theirs)

        said = b""

        def until(what: bytes) -> None:
            nonlocal said
            while what not in said:
                said += os.read(ours, 4096)
            said = said.partition(what)[2]

        try:
            for question, answer in [(b"one", b"of 4\r\n"), (b"x" * 2000, b"error: "), (b"two", b"of 4\r\n")]:
                until(b"\n> ")
                os.write(ours, question + b"\n")
                until(answer)
            until(b"\n> ")
            while process.poll() is None:  # again: Python misses a Ctrl-C in the moment before it waits for keys
                os.write(ours, end.encode())
                with suppress(OSError):  # Linux says so that nobody has the other end any more
                    while select.select([ours], [], [], 5)[0] and os.read(ours, 4096):
                        pass
            assert process.returncode == 0
        finally:
            process.kill()
            os.close(ours)


def test_an_answer_to_each_question_is_no_page_of_html(tiny_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a terminal --html is refused, before anything is loaded."""
    monkeypatch.setattr("nemovlm.cli.search._at_a_terminal", lambda: True)
    assert "--html is written once" in nemovlm_here("search", "--db", tiny_db, "--html", "a.html", code=1)[1]


@pytest.fixture(scope="module")
def foreign(vl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of a document whose name and text have letters that few encodings have."""
    folder = tmp_path_factory.mktemp("foreign")
    (folder / "\u6587\u4ef6 \u20ac \U0001f600.pdf").write_bytes(numbered(1))
    nemovlm_here("index", folder, "--db", folder / "db", "--model", vl_folder, "--modality", "text")
    return folder


@pytest.mark.parametrize(("encoding", "option"), [("cp1252", ""), ("ascii", "--json"), ("ascii", "--html")])
def test_output_that_is_not_utf_8(encoding: str, option: str, foreign: Path) -> None:
    """What cannot be shown is escaped, JSON stays JSON, and a file is written whatever the terminal can show."""
    page = foreign / f"{encoding}.html"
    options = [option, *([page] if option == "--html" else [])] if option else []
    command = [*COMMAND, "search", "number", "--db", str(foreign / "db"), *map(str, options)]
    done = subprocess.run(
        command, capture_output=True, timeout=120, env=os.environ | {"PYTHONIOENCODING": encoding}, check=False
    )
    out, said = (text.decode(encoding) for text in (done.stdout, done.stderr))
    assert done.returncode == 0, said
    if option == "--json":
        assert json.loads(out)[0]["hits"][0]["document"].endswith("\u6587\u4ef6 \u20ac \U0001f600.pdf")
    else:
        assert "\\u6587" in out
    if option == "--html":
        assert "\u6587\u4ef6 \u20ac \U0001f600.pdf" in page.read_text(encoding="utf-8")


def test_scans_are_indexed_by_their_pictures(db: Path) -> None:
    """The two pages without a text layer are found with the others, and have a picture in place of words."""
    found = json.loads(nemovlm_here("search", "herring", "--db", db, "-k", 99, "--json")[0])[0]["hits"]
    assert len(found) == 33
    assert {(Path(hit["document"]).name, hit["page"]) for hit in found if not hit["text"].strip()} == SCANS


def test_a_text_model_leaves_scans_out(text_folder: Path, samples: Path, tmp_path: Path) -> None:
    """With a model that reads text only it says so, and names pages without a text layer: code 3, again each time."""
    arguments = ("index", samples / "archive-bulletin.pdf", "--db", tmp_path / "db", "--model", text_folder)
    for done in ("2 pages embedded, 2 left out; the index in", "0 pages embedded, 2 already there, 2 left out; the"):
        _, said = nemovlm_here(*arguments, code=3)
        assert "embedded by their text layer, because this model reads text only" in said
        assert [line.partition(":")[2].partition(":")[0] for line in said.splitlines() if "left out: " in line] == [
            f" archive-bulletin.pdf page {page + 1}" for _, page in sorted(SCANS)
        ]
        assert done in said


def test_answers_for_people(db: Path, tmp_path: Path) -> None:
    """Score, document, page and the words that answer; and an HTML page that needs nothing else."""
    out, said = nemovlm_here("search", QUESTIONS[0].text, "--db", db, "-k", 2, "--html", tmp_path / "found.html")
    lines = out.splitlines()
    assert lines[0] == QUESTIONS[0].text
    assert f"{QUESTIONS[0].document}  page {QUESTIONS[0].page + 1} of" in lines[1]
    assert len(lines) == 6
    assert "written: " in said
    html = (tmp_path / "found.html").read_text()
    assert html.count('src="data:image/jpeg;base64,') == 2
    assert "http" not in html
    assert "<script" not in html


def test_html_escapes(db: Path, tmp_path: Path) -> None:
    """A question cannot break the page."""
    nemovlm_here("search", "<script>alert(1)</script> bicycle", "--db", db, "--html", tmp_path / "x.html")
    assert "<script" not in (tmp_path / "x.html").read_text()


def test_indexing_again_does_nothing(samples: Path, db: Path) -> None:
    """The same command again finds everything there."""
    _, said = nemovlm_here("index", samples, "--db", db)
    assert "0 pages embedded, 33 already there; the index in" in said
    assert f"the index in {db} was made with it" in said


def test_embedding_prints_json_in_order(vl_folder: Path, tmp_path: Path) -> None:
    """One line a text or image, texts first; or a NumPy file."""
    from tests.support.checkpoints import case_image

    picture = tmp_path / "p.png"
    case_image("square").save(picture)
    arguments = ("embed", "one", "two", "--image", picture, "--model", vl_folder)
    rows = [json.loads(line) for line in nemovlm_here(*arguments)[0].splitlines()]
    assert [row["input"] for row in rows] == ["one", "two", str(picture)]
    nemovlm_here(*arguments, "--out", tmp_path / "v.npy")
    assert np.allclose(np.load(tmp_path / "v.npy"), [row["embedding"] for row in rows], atol=1e-6)
    query = json.loads(nemovlm_here("embed", "one", "--query", "--model", vl_folder)[0])["embedding"]
    assert not np.allclose(query, rows[0]["embedding"], atol=1e-3)


def test_doctor_and_models() -> None:
    """Which model and engine, on what, why, and what is missing."""
    out, _ = nemovlm_here("doctor")
    for part in ("nemovlm/pocket", "transformers, because", "cpu, computing in float32", "pip install 'nemovlm[vllm]'"):
        assert part in out
    said = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in out.splitlines())
    assert said["vectors"] == "dimension 2048"
    assert said["tokens"] == "text 8192, image 10240, text_image 10240"
    known = nemovlm_here("models")[0]
    assert "nvidia/llama-nemotron-embed-vl-1b-v2" in known
    assert known.splitlines()[-4] == "nemovlm/pocket"
    assert known.splitlines()[-2] == "    dimension 2048; takes text, image, text_image; Apache-2.0"
    assert nemovlm_here("--version")[0].startswith("nemovlm ")


def test_doctor_examines_a_server(served_vl: str) -> None:
    """Health, models, a text and an image with their time, and the vector space; code 1 if anything is amiss."""
    host = served_vl.removeprefix("http://")
    out, _ = nemovlm_here("doctor", "--base-url", served_vl)
    said = dict(re.split(r"  +", line.strip(), maxsplit=1) for line in out.splitlines() if "  " in line.strip())
    assert re.fullmatch(r"ready, \d+ ms", said[f"{host} health"])
    assert said[f"{host} space"].endswith(";dimensions=128;tiles=6;prompts=1")
    assert said[f"{host} models"] == "tiny-vl"
    assert said["engine"] == "nim, because a base_url is set"
    assert re.fullmatch(r"dimension 128, \d+ ms", said["text"])
    assert re.fullmatch(r"dimension 128, \d+ ms", said["image"])
    out = " ".join(nemovlm_here("doctor", "--base-url", served_vl, "--model", "nemovlm/pocket", code=1)[0].split())
    assert "nemovlm/pocket is not among them" in out
    assert "it serves: tiny-vl" in out
    assert "which is not nemovlm/pocket@3;" in out


def test_doctor_examines_an_index(served_vl: str, pdfs: Path, tmp_path: Path) -> None:
    """What is in it, its key, pages that are there twice and PDFs that are gone: code 1, until it is mended."""
    db = tmp_path / "db"

    def doctor(code: int) -> dict[str, str]:
        before = sorted((path, path.stat().st_mtime_ns) for path in db.rglob("*"))
        out, _ = nemovlm_here("doctor", "--db", db, "--base-url", served_vl, code=code)
        assert sorted((path, path.stat().st_mtime_ns) for path in db.rglob("*")) == before
        lines = [re.split(r"  +", line.strip(), maxsplit=1) for line in out.splitlines() if "  " in line.strip()]
        return {line[0]: line[1] for line in lines if line[0].startswith("index")}

    assert doctor(code=1) == {"index": f"there is none in {db}"}
    assert not db.exists()
    index = ("index", pdfs, "--db", db, "--base-url", served_vl)
    nemovlm_here(*index)
    sound = doctor(code=0)
    assert sound["index"] == "pages 9, documents 2"
    assert sound["index model"] == "tiny-vl"
    assert sound["index space"] == "tiny-vl@served;dimensions=128;prompts=1"
    assert sound["index doubled pages"] == "none"
    assert sound["index files"] == "all there"
    without_key(db, times=3)
    moved = pdfs / "staff-handbook.pdf"
    moved.rename(tmp_path / "away.pdf")
    amiss = doctor(code=1)
    assert amiss["index"] == "pages 9, documents 2"
    assert amiss["index key"].startswith("missing")
    assert amiss["index doubled pages"] == "18 rows too many; the next `nemovlm index` mends it"
    assert amiss["index files"].startswith("gone, 1 of 2:")
    (tmp_path / "away.pdf").rename(moved)
    nemovlm_here(*index)
    mended = doctor(code=0)
    assert mended["index key"].startswith("there")
    assert mended["index doubled pages"] == "none"


def test_texts_of_an_earlier_version_are_read_anew(text_folder: Path, pdfs: Path, tmp_path: Path) -> None:
    """`doctor` and `index` say that there are some; `--refresh-text` does all of them, or those of the PDFs named."""
    db = tmp_path / "db"
    index = ("index", "--db", db, "--model", text_folder)
    nemovlm_here(*index, pdfs, code=3)
    with_old_texts(db, lambda text: text.replace(" ", ""))
    out, _ = nemovlm_here("doctor", "--db", db, "--model", text_folder, code=1)
    assert f"of 7 pages as an earlier version of nemovlm read them; `nemovlm index --db {db} --refresh-text`" in (
        " ".join(out.split())
    )
    _, said = nemovlm_here(*index, pdfs, code=3)
    assert "7 of them have texts as an earlier version read them; --refresh-text reads them anew" in said
    _, said = nemovlm_here(*index, pdfs / "archive-bulletin.pdf", "--refresh-text", code=3)
    assert "1 document: 2 pages embedded, 2 left out" in said
    (pdfs / "archive-bulletin.pdf").unlink()
    _, said = nemovlm_here(*index, "--refresh-text", code=3)
    assert "left out: " in said
    assert "archive-bulletin.pdf: the file cannot be read: No such file or directory" in " ".join(said.split())
    assert "1 document: 5 pages embedded, 1 left out; the index in" in " ".join(said.split())
    out, _ = nemovlm_here("doctor", "--db", db, "--model", text_folder, code=1)
    assert "as this version reads them" in out
    _, said = nemovlm_here("index", "--db", db, code=1)
    assert "name PDFs, or folders of PDFs" in said


def test_doctor_of_an_index_without_its_model(vl_folder: Path, pdfs: Path, tmp_path: Path) -> None:
    """An index is examined though its model is gone; a folder in its place that is none is told by name."""
    shutil.copytree(vl_folder, tmp_path / "model")
    nemovlm_here("index", pdfs, "--db", tmp_path / "db", "--model", tmp_path / "model", "--modality", "text", code=3)
    shutil.rmtree(tmp_path / "model")
    out, said = nemovlm_here("doctor", "--db", tmp_path / "db", code=1)
    assert "pages 7, documents 2" in out
    assert "error: " in said
    (tmp_path / "file").touch()
    assert "there is none in" in nemovlm_here("doctor", "--db", tmp_path / "file", "--model", vl_folder, code=1)[0]


def test_the_command_line_on_a_server(served_vl: str, vl: Embedder, samples: Path, tmp_path: Path) -> None:
    """`index`, `search` and `embed` work with a server as they do without, and vectors are the same."""
    row = json.loads(nemovlm_here("embed", "one", "--base-url", served_vl)[0])
    assert np.allclose(row["embedding"], vl.embed(["one"])[0], atol=1e-6)
    document = samples / "staff-handbook.pdf"
    nemovlm_here("index", document, "--db", tmp_path / "db", "--base-url", served_vl)
    found = json.loads(nemovlm_here("search", "leave", "--db", tmp_path / "db", "--base-url", served_vl, "--json")[0])
    assert {Path(hit["document"]).name for hit in found[0]["hits"]} == {document.name}


def test_deleting(samples: Path, tmp_path: Path) -> None:
    """A document goes by its path; one that is not there is an error that lists what is."""
    nemovlm_here("index", samples / "staff-handbook.pdf", "--db", tmp_path / "db", "--modality", "text")
    _, said = nemovlm_here("delete", "nope.pdf", "--db", tmp_path / "db", code=1)
    assert "staff-handbook.pdf" in said
    assert "5 pages" in nemovlm_here("delete", samples / "staff-handbook.pdf", "--db", tmp_path / "db")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["index", "empty", "--db", "db"], 1, "error: there is no PDF in empty"),
        (["index", "no-such.pdf", "--db", "db"], 3, "no-such.pdf: the file cannot be read: No such file or directory"),
        (["index", "links", "--db", "db"], 3, "links/gone.pdf: the link cannot be followed: No such file or directory"),
        (["index", "text.pdf", "--db", "db"], 3, "text.pdf: this is no PDF"),
        (["index", "locked.pdf", "--db", "db"], 3, "locked.pdf: the PDF is encrypted; pass password="),
        (["index", "locked.pdf", "--db", "db", "--password", "x"], 3, "locked.pdf: the password is wrong"),
        (["index", "text.pdf", "--db", "db", "--model", "nvidia/llama-nemotron-embed-v1-1b-v2"], 1, "did you mean"),
        (["index", "text.pdf", "--db", "db", "--model", "empty"], 1, "has no config.json: it is no checkpoint folder"),
        (["index", "text.pdf", "--db", "db", "--model", "weightless"], 1, "has no weights"),
        (["index", "sound.pdf", "--db", "text.pdf"], 1, "text.pdf cannot be read or written"),
        (["index", "sound.pdf", "--db", "db", "--engine", "nim"], 1, "integrate.api.nvidia.com wants a key"),
        (["index", "sound.pdf", "--db", "db", "--device", "cuda"], 1, "there is no device 'cuda' here"),
        (["embed", "x", "--base-url", "localhost:8000"], 1, "no http:// or https:// address; did you mean 'http://loc"),
        (["embed", "x", "--base-url", "http://127.0.0.1:9", "--model", "m"], 1, "127.0.0.1:9 could not be reached"),
        (["doctor", "--base-url", "http://127.0.0.1:9"], 1, "127.0.0.1:9 could not be reached"),
        (["search", "x", "--db", "none"], 1, "there is no page index in none"),
        (["search", "--db", "none"], 1, "ask at least one question"),
        (["embed", "--image", "zero.png", "--model", "tiny"], 1, "zero.png: zero.png is empty (0 bytes)"),
        (["embed"], 1, "give texts, or images"),
        (["frobnicate"], 2, "No such command"),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input(arguments: list[str], code: int, message: str, bad: Path) -> None:
    """Every mistake a new user makes is one clear line and an exit code, without a traceback."""
    _, said = nemovlm_here(*arguments, code=code, cwd=bad)
    assert message in said
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def bad(vl_folder: Path, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that can be wrong."""
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen.canvas import Canvas

    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    (folder / "links").mkdir()
    (folder / "links" / "gone.pdf").symlink_to("nothing")
    (folder / "text.pdf").write_text("only text")
    (folder / "zero.png").touch()
    shutil.copy(samples / "staff-handbook.pdf", folder / "sound.pdf")
    canvas = Canvas(str(folder / "locked.pdf"), encrypt=StandardEncryption("secret"))
    canvas.drawString(72, 72, "hidden")
    canvas.save()
    shutil.copytree(vl_folder, folder / "tiny")
    shutil.copytree(vl_folder, folder / "weightless", ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.mark.parametrize(("arguments", "code"), [(["embed"], 1), (["frobnicate"], 2), (["--version"], 0)], ids=str)
def test_a_process_ends_with_the_code(arguments: list[str], code: int) -> None:
    """What went wrong is on standard error, results are on standard output, and the shell gets the code."""
    out, said = nemovlm(*arguments, code=code)
    assert (out == "", said == "") == (code != 0, code == 0)
    assert "Traceback" not in said


def test_debug_shows_the_traceback() -> None:
    """`--debug` is for those who want to know."""
    assert "Traceback" in nemovlm("embed", "--debug", code=1)[1]


def test_ctrl_c_then_the_same_command(text_folder: Path, tmp_path: Path) -> None:
    """Stopped while indexing, it says what is kept; the same command does the rest."""
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(tmp_path / "book.pdf"))
    for number in range(300):
        canvas.drawString(72, 700, f"Page {number} tells of the number {number * number}.")
        canvas.showPage()
    canvas.save()
    arguments = ["index", str(tmp_path / "book.pdf"), "--db", str(tmp_path / "db"), "--model", str(text_folder)]
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        while not list((tmp_path / "db").glob("pages.lance/data/*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "pages; the same command goes on from there" in said
    assert "Traceback" not in said
    _, said = nemovlm_here(*arguments)
    assert "already there; the index in" in said
    assert "has 300 pages" in said
