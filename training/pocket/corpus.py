"""The text that the pocket model is made from, and the fonts: which packages, and what is for training, what for
tests.

Everything is in Debian's packages, whose licences allow to use, change and pass it on; the model card lists them. The
parts have no document in common, not even a package; of the development and test documents, those that share text
with a training document are dropped all the same (`distinct`)."""

from __future__ import annotations

import hashlib
import html
import re
import subprocess
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Part = Literal["train", "dev", "test"]

#: For each part, its packages and which of their files are English text.
TEXT: dict[Part, dict[str, str]] = {
    "train": {
        "wordnet-base": r"/data\.(noun|verb|adj|adv)$",
        "python3.11-doc": r"\.html$",
        "postgresql-doc-15": r"\.html$",
        "python-django-doc": r"\.html$",
        "r-cran-janeaustenr": r"/Rdata\.rdb$",
        "apache2-doc": r"/manual/en/.*\.html$",
        "sqlite3-doc": r"\.html$",
    },
    "dev": {
        "gimp-help-en": r"/en/.*\.html$",
        "octave-doc": r"/octave\.html/.*\.html$",
        "debian-handbook": r"/en-US/.*\.html$",
    },
    "test": {
        "libreoffice-help-en-us": r"/text/.*\.html$",
        "git-doc": r"\.html$",
        "abs-guide": r"/html/.*\.html$",
        "gnucash-docs": r"/gnucash-(guide|manual)-(C|en)/.*\.html$",
    },
}
FONT_PACKAGES = (
    "fonts-dejavu-core",
    "fonts-dejavu-extra",
    "fonts-liberation2",
    "fonts-open-sans",
    "fonts-lato",
    "fonts-crosextra-carlito",
    "fonts-crosextra-caladea",
    "fonts-linuxlibertine",
    "fonts-ebgaramond",
    "fonts-cantarell",
    "fonts-texgyre",
    "fonts-lmodern",
    "fonts-vollkorn",
    "fonts-hack",
    "fonts-courier-prime",
    "fonts-inconsolata",
    "fonts-cabin",
    "fonts-roboto-unhinted",
)

#: Font files by the part that they belong to; the rest of the packages' files is not used.
TRAINED_FONTS = re.compile(
    r"/(DejaVu(Sans|Serif)(Condensed)?(-(Bold|Oblique|Italic|BoldOblique|BoldItalic))?"
    r"|DejaVuSansMono(-Bold)?"
    r"|Liberation(Sans|Serif|Mono|SansNarrow)-(Regular|Bold|Italic|BoldItalic)"
    r"|OpenSans-(Regular|Light|Semibold|Bold|Italic|BoldItalic)|Lato-(Regular|Light|Medium|Bold|Italic|BoldItalic)"
    r"|Carlito-(Regular|Bold|Italic|BoldItalic)|LinLibertine_(R|RB|RI|RBI)|LinBiolinum_(R|RB|RI)"
    r"|EBGaramond12-(Regular|Italic|Bold)|Cantarell-(Regular|Bold)"
    r"|texgyre(termes|heros|pagella|bonum|schola|adventor|heroscn)-(regular|bold|italic)|texgyrecursor-regular"
    r"|lm(roman10|roman8|roman12|sans10)-(regular|bold|italic|oblique)|lmmono10-regular"
    r"|Vollkorn-(Regular|Bold|Italic)|Hack-(Regular|Bold)|Courier ?Prime)\.[ot]tf$"
)
DEV_FONTS = re.compile(r"/(Cabin-(Regular|Bold))\.[ot]tf$")
TEST_FONTS = re.compile(r"/(unhinted/(RobotoTTF/)?Roboto-(Regular|Bold)|Caladea-(Regular|Italic)|Inconsolata)\.[ot]tf$")

SHINGLE = 8  # words
SHARED = 0.1  # the share of a document's shingles from which on it is a copy
SHORTEST = 100  # words of a document

_SKIPPED = re.compile(r"genindex|py-modindex|changelog|/search\.html|/whatsnew/|/releases/|copyright|release-|README")


@dataclass(frozen=True)
class Document:
    package: str
    path: str
    text: str


def fetch(folder: Path) -> None:
    """Download the packages with apt, and unpack them below `folder`; what is there is left alone."""
    for package in (*(name for part in TEXT.values() for name in part), *FONT_PACKAGES):
        target = folder / package
        if target.exists():
            continue
        archives = folder / "archives"
        archives.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", package], cwd=archives, check=True, stdout=subprocess.DEVNULL)
        (archive,) = archives.glob(f"{package}_*.deb")
        subprocess.run(["dpkg", "-x", archive, target], check=True)


def fonts(folder: Path, which: re.Pattern[str]) -> list[str]:
    """The paths of the font files that `which` matches, one for each name."""
    found: dict[str, str] = {}
    for package in FONT_PACKAGES:
        for path in sorted((folder / package).rglob("*.[ot]tf")):
            if which.search(path.as_posix()):
                found.setdefault(path.name, str(path))
    return list(found.values())


def documents(folder: Path, part: Part) -> list[Document]:
    """The documents of a part that have at least a hundred words."""
    found: dict[str, Document] = {}  # by content: packages hold the same page twice, as a link or as a copy
    for package, pattern in TEXT[part].items():
        for file in sorted((folder / package).rglob("*")):
            path = file.relative_to(folder).as_posix()
            if file.is_file() and re.search(pattern, path) and not _SKIPPED.search(path):
                text = _read(file)
                if len(text.split()) >= SHORTEST:
                    found.setdefault(hashlib.sha256(text.encode()).hexdigest(), Document(package, path, text))
    return list(found.values())


def words_to_draw(documents: Iterable[Document]) -> list[str]:
    """The words of the documents, in order, as they are printed; what is no ASCII or very long is left out."""
    return [word for document in documents for word in document.text.split() if word.isascii() and len(word) < 24]


def shingles(text: str) -> set[int]:
    """Hashes of all runs of eight words, lower-case, letters and digits only."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {hash(tuple(words[at : at + SHINGLE])) for at in range(len(words) - SHINGLE + 1)}


def distinct(candidates: Iterable[Document], trained: Iterable[Document]) -> list[Document]:
    """The candidates that are no copies of training documents, by their shingles."""
    seen: set[int] = set()
    for document in trained:
        seen |= shingles(document.text)
    return [
        candidate
        for candidate in candidates
        if (own := shingles(candidate.text)) and len(own & seen) < SHARED * len(own)
    ]


def _read(file: Path) -> str:
    if file.name.startswith("data."):
        return _glosses(_decoded(file))
    return _strings_of_r(file.read_bytes()) if file.suffix == ".rdb" else _strip_markup(_decoded(file))


def _decoded(file: Path) -> str:
    return file.read_text("utf-8", "replace")


def _strip_markup(page: str) -> str:
    page = re.sub(r"(?is)<(script|style|pre|nav|head|footer)\b.*?</\1>", " ", page)
    page = re.sub(r'(?is)<div class="(?:sphinxsidebar|related|navheader|navfooter)".*?</div>', " ", page)
    return html.unescape(re.sub(r"(?s)<[^>]*>", " ", page))


def _strings_of_r(database: bytes) -> str:
    """The strings in a database of R objects: zlib streams; a string is a header, a length and its bytes."""
    header = b"\x00\x04\x00\x09"
    return "\n".join(
        content[match.end() + 4 : match.end() + 4 + size].decode("utf-8", "replace")
        for content in _streams(database)
        for match in re.finditer(re.escape(header), content)
        if (size := int.from_bytes(content[match.end() : match.end() + 4], "big")) < 1000
    )


def _streams(database: bytes) -> Iterator[bytes]:
    start = database.find(b"\x78")
    while start >= 0:
        stream = zlib.decompressobj()
        try:
            yield stream.decompress(database[start:])
            start = database.find(b"\x78", len(database) - len(stream.unused_data))
        except zlib.error:  # an ordinary byte that looks like the start of a stream
            start = database.find(b"\x78", start + 1)


def _glosses(data: str) -> str:
    """Each entry's words, then its gloss: ``insurance: promise of reimbursement in the case of loss``."""
    lines: list[str] = []
    for line in data.splitlines():
        if line.startswith("  "):  # the licence
            continue
        fields, _, gloss = line.partition("|")
        parts = fields.split()
        words = parts[4 : 4 + 2 * int(parts[3], 16) : 2]
        lines.append(" ".join(words).replace("_", " ") + ": " + gloss)
    return "\n".join(lines)
