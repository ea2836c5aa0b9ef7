"""Which PDFs files and folders stand for: nothing is silent, and each file comes once."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemovlm.errors import PageIndexError, PdfError
from nemovlm.paths import lasting_path
from nemovlm.pdf import find_pdfs, pdfs_at, pdfs_below

needs_links = pytest.mark.skipif(os.name == "nt", reason="only some users may make links")


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")


def names(found: list[Path | PdfError], folder: Path) -> list[str]:
    """What was found, by its name below the folder; "!" stands before that of an error."""
    return [
        f"!{os.path.relpath(str(pdf.item), folder)}"
        if isinstance(pdf, PdfError)
        else pdf.relative_to(folder).as_posix()
        for pdf in found
    ]


def errors(found: list[Path | PdfError]) -> list[str]:
    return [str(error) for error in found if isinstance(error, PdfError)]


# Names


def test_what_is_hidden_is_left_out(tmp_path: Path) -> None:
    """Below a folder, what begins with a dot, and what Office keeps beside an open file."""
    hidden = ("._report.pdf", ".hidden.pdf", "~$report.pdf", ".git/a.pdf", "__MACOSX/._a.pdf", "..data/report.pdf")
    put(tmp_path, "report.pdf", "sub/~report.PDF", "notes.txt", *hidden)
    assert (
        names(pdfs_below(tmp_path), tmp_path)
        == names(find_pdfs(tmp_path), tmp_path)
        == [
            "report.pdf",
            "sub/~report.PDF",
        ]
    )
    with pytest.raises(PdfError, match="there is no PDF in this folder") as caught:
        pdfs_at(tmp_path / "__MACOSX")
    assert caught.value.item == str(tmp_path / "__MACOSX")
    with pytest.raises(PageIndexError, match="there is no PDF in"):
        find_pdfs([tmp_path / "__MACOSX"])


def test_what_is_named_is_taken(tmp_path: Path) -> None:
    """A hidden file, a hidden folder and a file without an ending, if the user says their names."""
    sources = [".git", "~$a.pdf", "scan"]
    put(tmp_path, ".git/a.pdf", *sources[1:])
    assert names(find_pdfs([tmp_path / name for name in sources]), tmp_path) == [".git/a.pdf", *sources[1:]]
    assert pdfs_at(tmp_path / "scan") == [tmp_path / "scan"]


def test_the_order_is_that_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the names of folders and files from the left, and not by the whole text; a relative folder stays relative."""
    ordered = ["a/z.pdf", "a b.pdf", "a.pdf", "b/a/c.pdf", "b/b.pdf", "c.PDF"]
    put(tmp_path, *reversed(ordered))
    assert pdfs_below(tmp_path) == [tmp_path / name for name in ordered] == sorted(tmp_path.rglob("*.[pP][dD][fF]"))
    monkeypatch.chdir(tmp_path)
    assert pdfs_below(Path()) == [Path(name) for name in ordered]
    assert find_pdfs(["b", Path("c.PDF"), "."]) == [tmp_path / ordered[n] for n in (3, 4, 5, 0, 1, 2)]


# Links


@needs_links
def test_links_are_followed(tmp_path: Path) -> None:
    """To folders and files, also outside; a loop ends, and a file that several links lead to comes once."""
    lib = tmp_path / "lib"
    put(tmp_path, "lib/own.pdf", "other/x.pdf", "other/sub/y.pdf", "single.pdf")
    for name, target in {"archive": "../other", "loop": ".", "up": "..", "one.pdf": "../single.pdf"}.items():
        (lib / name).symlink_to(target)
    (tmp_path / "other" / "sub" / "back").symlink_to(lib)
    assert names(pdfs_below(lib), lib) == ["archive/sub/y.pdf", "archive/x.pdf", "one.pdf", "own.pdf"]
    assert names(find_pdfs(lib), tmp_path) == ["other/sub/y.pdf", "other/x.pdf", "single.pdf", "lib/own.pdf"]
    sources = [lib / "own.pdf", lib / "archive", tmp_path / "other", lib]
    assert names(find_pdfs(sources), tmp_path) == ["lib/own.pdf", "single.pdf", "other/sub/y.pdf", "other/x.pdf"]


@needs_links
def test_a_link_renames_nothing(tmp_path: Path) -> None:
    """A file keeps its own name, wherever links to it, or to its folder, are made beside it."""
    put(tmp_path, "m/a.pdf", "m/b.pdf", "z.pdf")
    before = pdfs_below(tmp_path)
    (tmp_path / "0").symlink_to("m")
    (tmp_path / "1.pdf").symlink_to("z.pdf")
    (tmp_path / "m" / "0.pdf").symlink_to("../z.pdf")
    assert pdfs_below(tmp_path) == find_pdfs(tmp_path) == before


def test_hard_links_are_one_file(tmp_path: Path) -> None:
    """Under the first of its names; another file with the same content is another file."""
    put(tmp_path, "m.pdf")
    os.link(tmp_path / "m.pdf", tmp_path / "a.pdf")
    (tmp_path / "z.pdf").write_bytes((tmp_path / "a.pdf").read_bytes())
    for found in (pdfs_below(tmp_path), find_pdfs(tmp_path), find_pdfs([tmp_path / "a.pdf", tmp_path])):
        assert names(found, tmp_path) == ["a.pdf", "z.pdf"]


def volume(folder: Path, version: str) -> None:
    """Bring a folder up to date as Kubernetes does with a ConfigMap of `report.pdf` and `sub/more.pdf`."""
    put(folder / version, "report.pdf", "sub/more.pdf")
    (folder / "..data_tmp").symlink_to(version)
    (folder / "..data_tmp").replace(folder / "..data")
    for name in ("report.pdf", "sub"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(f"..data/{name}")


@needs_links
def test_a_volume_of_kubernetes(tmp_path: Path) -> None:
    """Each file comes once, by its visible name, however it is reached, and that is the same after an update."""
    shown = ["report.pdf", "sub/more.pdf"]
    (tmp_path / "link").symlink_to("mounted")
    mounted = tmp_path / "mounted"
    ways = [mounted, tmp_path / "link", [mounted / name for name in shown], [mounted / "report.pdf", mounted / "sub"]]
    for version in ("..2026_01_01_00_00_00.1", "..2026_01_02_00_00_00.2"):
        volume(mounted, version)
        assert names(pdfs_below(mounted), mounted) == shown
        for sources in ways:
            assert names(find_pdfs(sources), mounted) == shown
    assert lasting_path(mounted / "report.pdf") == mounted / "report.pdf"
    assert lasting_path(mounted / "..data" / "gone.pdf") == mounted / "..data" / "gone.pdf"


@needs_links
def test_other_names_are_without_links(tmp_path: Path) -> None:
    """As they were: also of hidden folders, and of files that are gone or never were."""
    put(tmp_path, ".store/a.pdf")
    (tmp_path / "link.pdf").symlink_to(".store/a.pdf")
    (tmp_path / "folder").symlink_to(".store")
    for name in ("link.pdf", "folder/a.pdf", ".store/a.pdf", "folder/gone.pdf", "none/../folder/x"):
        assert lasting_path(tmp_path / name) == (tmp_path / name).resolve()


# What cannot be read


@needs_links
def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    """Each stands in its place as an error if it may have been a PDF or a folder; the others come."""
    put(tmp_path, "a.pdf", "m.pdf", "z/z.pdf")
    for name, target in {"gone.pdf": "/no/where", "loop.PDF": "loop.PDF", "archive": "none", "lib.so": "none"}.items():
        (tmp_path / name).symlink_to(target)
    for found in (pdfs_below(tmp_path), find_pdfs(tmp_path)):
        assert names(found, tmp_path) == ["a.pdf", "!archive", "!gone.pdf", "!loop.PDF", "m.pdf", "z/z.pdf"]
        assert all("the link cannot be followed" in error for error in errors(found))
        assert "Too many levels of symbolic links" in errors(found)[2]
        assert isinstance(next(pdf for pdf in found if isinstance(pdf, PdfError)).__cause__, FileNotFoundError)


@pytest.mark.parametrize("name", ["none.pdf", "none/none.pdf", f"{'x' * 300}.pdf", "nu\0l.pdf"])
def test_a_named_file_that_is_not_there(name: str, tmp_path: Path) -> None:
    """It is an error by its name, once, in its place; it takes the place of no other."""
    put(tmp_path, "a.pdf", "b.pdf")
    found = find_pdfs([tmp_path / "b.pdf", tmp_path / name, tmp_path / "a.pdf", tmp_path / name])
    assert [type(pdf) for pdf in found] == [type(tmp_path), PdfError, type(tmp_path)]
    assert errors(found)[0].startswith(f"{tmp_path / name}: the file cannot be read: ")


@contextmanager
def without_rights(folder: Path) -> Iterator[None]:
    """Nobody may read the folder, also if root runs the tests."""
    folder.chmod(0)
    user = os.geteuid()
    try:
        os.seteuid(user or 65534)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(stat.S_IRWXU)


@pytest.mark.skipif(os.name == "nt", reason="rights are of another kind")
def test_a_folder_that_may_not_be_read() -> None:
    """It is an error in its place, whatever its name; the others come."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        put(folder, "a.pdf", "locked.2026/b.pdf", "z.pdf")
        with without_rights(folder / "locked.2026"):
            for found in (pdfs_below(folder), find_pdfs([folder])):
                assert names(found, folder) == ["a.pdf", "!locked.2026", "z.pdf"]
                assert "the folder cannot be read, nor what lies in it: Permission denied" in errors(found)[0]
            assert names(find_pdfs(folder / "locked.2026"), folder) == ["!locked.2026"]
            assert names(find_pdfs([folder / "locked.2026" / "b.pdf"]), folder) == ["!locked.2026/b.pdf"]


@pytest.mark.skipif(os.name == "nt", reason="no such files in folders")
def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    """A pipe that nobody writes to would be waited for without end, and one that is read has nothing left to index."""
    put(tmp_path, "a.pdf", "z.pdf")
    os.mkfifo(tmp_path / "pipe.pdf")
    (tmp_path / "null.pdf").symlink_to(os.devnull)
    found = pdfs_below(tmp_path)
    assert names(found, tmp_path) == ["a.pdf", "!null.pdf", "!pipe.pdf", "z.pdf"]
    assert [error.partition(": it is ")[2].partition(",")[0] for error in errors(found)] == ["a device", "a pipe"]
    assert "it is a pipe, and no file" in errors(find_pdfs(tmp_path / "pipe.pdf"))[0]


@needs_links
def test_a_deep_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deeper than Python calls go, and deeper than paths are long: the last is an error."""
    monkeypatch.chdir(tmp_path)
    depth = 2100
    for level in range(depth):
        Path("d").mkdir()
        os.chdir("d")
        if level in {1200, depth - 1}:
            Path("x.pdf").touch()
    try:
        found = find_pdfs(tmp_path)
    finally:  # pytest would go down by calls
        for _ in range(depth):
            Path("x.pdf").unlink(missing_ok=True)
            os.chdir("..")
            Path("d").rmdir()
    assert [type(pdf) for pdf in found] == [PdfError, type(tmp_path)]
    assert "File name too long" in errors(found)[0]


# Any tree


NAMES = ["a", "z", "a.pdf", "m.PDF", "z.pdf", "b.d", ".h", "..v", ".h.pdf", "~$a.pdf", "n.txt"]
# What is made, its name, and by number among what was made before: the folder, and what is linked to.
trees = st.lists(
    st.tuples(
        st.sampled_from(["folder", "folder", "file", "file", "link", "link", "hard link", "nothing"]),
        st.sampled_from(NAMES),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    min_size=5,
    max_size=25,
)


def grow(root: Path, tree: list[tuple[str, str, int, int]]) -> None:
    folders, made = [root], [root]
    for number, (kind, name, parent, target) in enumerate(tree):
        path, other = folders[parent % len(folders)] / name, made[target % len(made)]
        if os.path.lexists(path):
            continue
        if kind == "folder":
            path.mkdir()
            folders.append(path)
        elif kind == "file":
            path.write_text(str(number))
        elif kind == "hard link" and other.is_file() and not other.is_symlink():
            os.link(other, path)
        else:
            path.symlink_to(root / "none" if kind == "nothing" else other)
        made.append(path)


def reachable(root: Path) -> set[tuple[int, int]]:
    """What visible names lead to, found in another way: folder by folder, by real paths, until there is nothing new."""
    files, folders, todo = set(), set(), [os.path.realpath(root)]
    while todo:
        if (folder := todo.pop()) in folders:
            continue
        folders.add(folder)
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if name[0] == "." or name[:2] == "~$":
                continue
            if os.path.isdir(path):
                todo.append(os.path.realpath(path))
            elif os.path.isfile(path) and name.lower().endswith(".pdf"):
                files.add((os.stat(path).st_dev, os.stat(path).st_ino))
    return files


def plain(root: Path) -> set[str]:
    """The visible PDFs without links, the first name of each."""
    found: dict[int, str] = {}
    paths = (path for path in root.rglob("*") if not path.is_symlink() and path.is_file())
    for path in sorted(path.relative_to(root) for path in paths):
        if path.suffix.lower() == ".pdf" and not any(name.startswith((".", "~$")) for name in path.parts):
            found.setdefault((root / path).stat().st_ino, path.as_posix())
    return set(found.values())


@needs_links
@settings(deadline=None)
@given(trees)
def test_any_tree(tree: list[tuple[str, str, int, int]]) -> None:
    """Each visible file comes once, in order; one without links by its own name; twins of the tree give the same."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        roots = [Path(name).resolve() for name in (one, two)]
        grow(roots[0], tree)
        grow(roots[1], tree)
        found = pdfs_below(roots[0])
        pdfs = [pdf for pdf in found if isinstance(pdf, Path)]
        identities = [(pdf.stat().st_dev, pdf.stat().st_ino) for pdf in pdfs]
        assert len(set(identities)) == len(identities)
        assert set(identities) == reachable(roots[0])
        assert pdfs == sorted(pdfs)
        assert plain(roots[0]) <= set(names(found, roots[0]))
        assert all(os.path.lexists(str(pdf.item)) for pdf in found if isinstance(pdf, PdfError))
        assert names(found, roots[0]) == names(pdfs_below(roots[1]), roots[1])
        if found:
            documents = [pdf for pdf in find_pdfs(roots[0]) if isinstance(pdf, Path)]
            assert {(pdf.stat().st_dev, pdf.stat().st_ino) for pdf in documents} == set(identities)
            assert len(documents) == len(pdfs)
