"""Which PDFs files and folders stand for: each once, in order, and nothing is left out silently but what is hidden."""

import os
import stat
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemovlm.errors import PageIndexError, PdfError
from nemovlm.pdf import find_pdfs, lasting_name, pdfs_below
from tests.support.books import numbered

links = pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
PDF = numbered(1)


def names(found: list[Path | PdfError], folder: Path) -> list[str]:
    """Paths within a folder, and errors by what they say after the name."""
    return [
        f"{Path(str(path.item)).name}: {path.args[0]}"
        if isinstance(path, PdfError)
        else path.relative_to(folder).as_posix()
        for path in found
    ]


def lay(folder: Path, *files: str) -> Path:
    """Make files, and the folders that they are in."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(PDF)
    return folder


def test_what_is_hidden_is_left_out(tmp_path: Path) -> None:
    """What systems and programs lay beside documents is none; a file that somebody names is one in any case."""
    lay(tmp_path, "report.pdf", "._report.pdf", "~$report.pdf", ".git/old.pdf", "sub/B.PDF", "sub/notes.txt")
    assert names(pdfs_below(tmp_path), tmp_path) == ["report.pdf", "sub/B.PDF"]
    assert find_pdfs(tmp_path / "._report.pdf") == [(tmp_path / "._report.pdf").resolve()]


def test_the_folder_itself_may_be_hidden(tmp_path: Path) -> None:
    """Only what is below it counts."""
    folder = lay(tmp_path / ".cache" / "papers", "a.pdf")
    assert find_pdfs(folder) == [(folder / "a.pdf").resolve()]


def test_the_order_is_that_of_paths(tmp_path: Path) -> None:
    """Folder by folder, as `sorted` has paths."""
    files = ["b.pdf", "a/z.pdf", "a.pdf", "a b/c.pdf", "a/b/c.pdf", "B.pdf", "\xe4.pdf"]
    lay(tmp_path, *files)
    assert pdfs_below(tmp_path) == sorted(tmp_path / file for file in files)


@links
def test_a_mounted_config_map_is_read_once_by_its_visible_names(tmp_path: Path) -> None:
    """Its files are links into a hidden folder, another one after each update, which is no other document."""
    folder = lay(tmp_path, "..2026_01/report.pdf", "..2026_01/more/deep.pdf", "..2026_02/report.pdf")
    (folder / "..data").symlink_to("..2026_01")
    (folder / "report.pdf").symlink_to("..data/report.pdf")
    (folder / "more").symlink_to("..data/more")
    before = find_pdfs(folder)
    assert before == [folder.resolve() / "more/deep.pdf", folder.resolve() / "report.pdf"]
    (folder / "..new").symlink_to("..2026_02")
    (folder / "..new").replace(folder / "..data")
    assert lasting_name(folder / "report.pdf") == before[1]


@links
def test_links_are_followed_and_end(tmp_path: Path) -> None:
    """A linked folder is read once, one that leads back is not read again, and a linked file has its own name."""
    lay(tmp_path, "library/a.pdf", "library/sub/b.pdf", "elsewhere/c.pdf")
    (tmp_path / "library/again").symlink_to(tmp_path / "library")
    (tmp_path / "library/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "library/linked too").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "library/z.pdf").symlink_to("a.pdf")
    assert names(pdfs_below(tmp_path / "library"), tmp_path / "library") == ["a.pdf", "linked/c.pdf", "sub/b.pdf"]
    found = names(find_pdfs([tmp_path / "library/z.pdf", tmp_path / "library"]), tmp_path.resolve())
    assert found == ["library/a.pdf", "elsewhere/c.pdf", "library/sub/b.pdf"]


@pytest.mark.skipif(not hasattr(os, "link"), reason="there are no hard links here")
def test_a_file_under_several_names_comes_once(tmp_path: Path) -> None:
    """By the first of them, in one folder and in several."""
    lay(tmp_path, "one/a.pdf", "two/c.pdf")
    os.link(tmp_path / "one/a.pdf", tmp_path / "one/b.pdf")
    os.link(tmp_path / "one/a.pdf", tmp_path / "two/d.pdf")
    sources = [tmp_path / "one", tmp_path / "two", tmp_path / "two/d.pdf", tmp_path / "one"]
    assert names(find_pdfs(sources), tmp_path.resolve()) == ["one/a.pdf", "two/c.pdf"]


@links
def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    """Links that lead nowhere, or in a circle, and what is no file: each is an error, and the others come."""
    lay(tmp_path, "a.pdf")
    (tmp_path / "dead.pdf").symlink_to("nowhere.pdf")
    (tmp_path / "dead-folder").symlink_to("nowhere")
    (tmp_path / "dead.txt").symlink_to("nowhere")
    (tmp_path / "loop.pdf").symlink_to("loop.pdf")
    os.mkfifo(tmp_path / "pipe.pdf")
    os.mknod(tmp_path / "socket.pdf", stat.S_IFSOCK | 0o600)
    said = [
        "a.pdf",
        "dead-folder: the link leads nowhere: No such file or directory",
        "dead.pdf: the link leads nowhere: No such file or directory",
        "loop.pdf: the link leads nowhere: Too many levels of symbolic links",
        "pipe.pdf: it is a pipe, and no file to come back to: save what is in it",
        "socket.pdf: it is a socket, and no file to come back to: save what is in it",
    ]
    assert names(pdfs_below(tmp_path), tmp_path) == said
    assert names(find_pdfs(tmp_path), tmp_path.resolve()) == said
    assert names(find_pdfs(tmp_path / "pipe.pdf"), tmp_path) == said[4:5]


def test_a_folder_that_cannot_be_listed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its neighbors come."""
    lay(tmp_path, "a/a.pdf", "b/b.pdf", "c/c.pdf")
    scan = os.scandir

    def refuse(path: str) -> "os.ScandirIterator[str]":  # the tester may be one who may read everything
        if path.endswith("b"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names(pdfs_below(tmp_path), tmp_path) == ["a/a.pdf", "b: it cannot be read: Permission denied", "c/c.pdf"]


def test_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    """A folder without a PDF is named, as is an empty list; a file that is not there is told when it is opened."""
    with pytest.raises(PageIndexError, match=str(tmp_path)):
        find_pdfs(tmp_path)
    with pytest.raises(PageIndexError, match="an empty list"):
        find_pdfs([])
    assert find_pdfs(tmp_path / "none.pdf") == [tmp_path.resolve() / "none.pdf"]


NAMES = st.sampled_from(["a", "b.pdf", "C.PDF", ".h", ".i.pdf", "~$j.pdf", "k.txt"])


@links
@given(
    st.lists(st.lists(NAMES, min_size=1, max_size=4), max_size=12),
    st.lists(st.tuples(NAMES, st.lists(NAMES, min_size=1, max_size=2)), max_size=4),
)
def test_any_tree_gives_each_visible_pdf_once(files: list[list[str]], more: list[tuple[str, list[str]]]) -> None:
    """However files, folders and links lie: every PDF that has a visible path is there once, and in order."""
    with TemporaryDirectory() as name:
        top = Path(os.path.realpath(name))
        for parts in files:
            path = top.joinpath(*parts)
            if not any(parent.is_file() for parent in path.parents) and not path.is_dir():
                lay(top, str(path.relative_to(top)))
        for link, target in more:
            if not (top / link).exists() and not (top / link).is_symlink():
                (top / link).symlink_to(top.joinpath(*target))
        found = [path for path in pdfs_below(top) if isinstance(path, Path)]
        assert found == sorted(found)
        real = [path.resolve() for path in found]
        assert len(set(real)) == len(real)
        visible = {
            path.resolve()
            for path in top.rglob("*")
            if path.is_file()
            and path.suffix.lower() == ".pdf"
            and not any(part.startswith((".", "~$")) for part in path.relative_to(top).parts)
        }
        assert visible <= set(real)
