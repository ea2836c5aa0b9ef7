"""The text layer of any PDFs, against those that poppler (`pdftotext`) and MuPDF (`mutool`) find in them.

Nobody knows what is right, so what both others agree on is taken for it. Words are what stands between blanks, without
the punctuation around it. A joined word is one of ours that neither of the others has, and that consists of two or more
words which both have, and which follow each other in the text of one of them: "400.01" and "3" as "400.013". Where they
touch there is a letter or a digit on both sides, and not all are single ones ("T E X T").

    python benchmarks/text_layer.py FOLDER... [--pages 10] [--every 3]
"""

import argparse
import re
import shutil
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common import machine, show

from nemovlm.errors import NemoVLMError
from nemovlm.models.tiling import Tiling
from nemovlm.pdf import count_pages, iter_pages

# Thai, Lao, Myanmar, Khmer, kana, and Chinese characters.
_NO_BLANKS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")

_AROUND = re.compile(r"^[\W_]+|[\W_]+$")


def texts_of(path: Path, pages: int, timeout: float) -> list[str]:
    """Return the texts of the first pages of a PDF as nemovlm has them; of one that fails, the empty text.

    Raises:
        NemoVLMError: It cannot be read.
    """
    texts = [""] * min(count_pages(path), pages)
    small = Tiling(tile=64)
    for page in iter_pages(path, pages=range(len(texts)), tiling=small, page_timeout=timeout, on_error=lambda _: None):
        texts[page.index] = page.text
    return texts


def others(path: Path, pages: int, timeout: float) -> Iterator[list[str]]:
    """Yield the texts of a PDF's first pages as poppler has them, and as MuPDF does; empty where one fails."""
    for command in (
        ["pdftotext", "-q", "-l", str(pages), str(path), "-"],
        ["mutool", "draw", "-q", "-F", "txt", str(path), f"1-{pages}"],
    ):
        try:
            said = subprocess.run(command, capture_output=True, timeout=timeout, check=False).stdout
        except subprocess.TimeoutExpired:
            said = b""
        yield said.decode("utf-8", "replace").split("\f")[:-1]


def tokens(text: str) -> list[str]:
    """Return what stands between blanks, with ligatures as letters."""
    return unicodedata.normalize("NFKC", text).split()


def words(parts: Iterable[str]) -> list[str]:
    """Return those parts that have a letter or a digit, without the punctuation around it."""
    bare = (_AROUND.sub("", part) for part in parts)
    return [word for word in bare if word]


def is_joined(word: str, apart: Sequence[str], known: Container[str]) -> bool:
    """Say whether a word is two or more of `apart` that follow each other, all of them `known`."""
    for n, first in enumerate(apart):
        rest, longest = word, 0
        for part in apart[n:] if word.startswith(first) and first != word else ():
            if not rest.startswith(part) or _AROUND.sub("", part) not in known:
                break
            rest, longest = rest[len(part) :], max(longest, len(part))
            if not rest and longest > 1:
                return True
            if not (part[-1].isalnum() and rest[:1].isalnum()):
                break
    return False


@dataclass
class Count:
    """What was seen of some pages."""

    pages: int = 0
    common: int = 0
    """Words that both others have."""
    kept: int = 0
    """Of these, ours."""
    ours: int = 0
    alone: int = 0
    """Words that neither of the others has."""
    joined: list[str] = field(default_factory=list)
    """Pages with joined words, and which."""
    silent: list[str] = field(default_factory=list)
    """Pages without a word where both others have some."""
    lost: list[tuple[int, str]] = field(default_factory=list)
    """How many words that both others have a page lacks, and which page."""
    failed: list[str] = field(default_factory=list)

    def add(self, name: str, ours: str, poppler: str, mupdf: str) -> None:
        """Compare the three texts of a page."""
        mine, *theirs = map(tokens, (ours, poppler, mupdf))
        have, first, second = (Counter(words(parts)) for parts in (mine, *theirs))
        common = first & second
        kept = (common & have).total()
        self.pages += 1
        self.common += common.total()
        self.kept += kept
        self.ours += have.total()
        self.alone += sum(times for word, times in have.items() if word not in first and word not in second)
        known = {*theirs[0], *theirs[1], *first, *second}
        strange = [word for word in dict.fromkeys(mine) if word not in known and not _NO_BLANKS.search(word)]
        if joined := [word for word in strange if any(is_joined(word, apart, common) for apart in theirs)]:
            self.joined.append(f"{name}: {' '.join(joined[:4])}")
        if common and not have:
            self.silent.append(name)
        elif common.total() > kept:
            self.lost.append((common.total() - kept, f"{name}: {' '.join(list(common - have)[:6])}"))

    def row(self, name: str) -> list[str]:
        """Return this as a row of the table."""
        return [
            name,
            str(self.pages),
            str(self.common),
            f"{self.kept / max(self.common, 1):.4f}",
            f"{self.alone / max(self.ours, 1):.4f}",
            str(len(self.joined)),
            str(len(self.silent)),
            str(len(self.failed)),
        ]


def compare(folder: Path, pages: int, every: int, timeout: float) -> Count:
    """Compare the PDFs of a folder and below."""
    count = Count()
    for path in sorted(folder.rglob("*.pdf"))[::every]:
        poppler, mupdf = others(path, pages, timeout)
        if not poppler or len(poppler) != len(mupdf):
            continue  # there is nothing to compare with
        try:
            ours = texts_of(path, pages, timeout)
        except NemoVLMError as error:
            count.failed.append(str(error))
            continue
        if len(ours) != len(poppler):
            count.failed.append(f"{path.name}: {len(ours)} pages, and not {len(poppler)}")
            continue
        for number, texts in enumerate(zip(ours, poppler, mupdf, strict=True), 1):
            count.add(f"{path.name} page {number}", *texts)
    return count


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="of PDFs; what lies below counts")
    parser.add_argument("--pages", type=int, default=10, help="of each PDF, from its start")
    parser.add_argument("--every", type=int, default=1, help="take each n-th PDF of a folder")
    parser.add_argument("--timeout", type=float, default=20, help="seconds a page may take us, and a PDF the others")
    parser.add_argument("--worst", type=int, default=10, help="list so many pages of each kind")
    given = parser.parse_args()
    if missing := [command for command in ("pdftotext", "mutool") if not shutil.which(command)]:
        raise SystemExit(f"{' and '.join(missing)} are not here; install poppler-utils and mupdf-tools")
    head = ["PDFs", "pages", "words both have", "of these ours", "ours alone", "joined", "silent", "PDFs failed"]
    total, rows = Count(), []
    for folder in given.folders:
        count = compare(folder, given.pages, given.every, given.timeout)
        rows.append(count.row(folder.name))
        for name, value in vars(count).items():
            setattr(total, name, getattr(total, name) + value)
    lost = [f"lacks {missing}: {what}" for missing, what in sorted(total.lost, reverse=True)]
    kinds = {"joined": total.joined, "silent": total.silent, "lost": lost, "failed": total.failed}
    worst = [f"{kind}: {what}" for kind, pages in kinds.items() for what in pages[: given.worst]]
    show(
        f"Text layers of the first {given.pages} pages of every {given.every}. PDF",
        [head, *rows, total.row("all")],
        [*worst, machine("pypdfium2")],
    )


if __name__ == "__main__":
    main()
