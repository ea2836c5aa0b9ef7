"""What was found, for people: the passage of a page that answers, and one HTML page with thumbnails.

Knows hits; knows nothing of how they were found.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemovlm.errors import MissingExtraError

if TYPE_CHECKING:
    from nemovlm.index import Hit

_WORD = re.compile(r"\w+")
_SHORT_WORD = 3  # the, of, in: words of this length or less do not show where an answer is


@dataclass(frozen=True)
class Answer:
    """A question and the pages that were found for it, best first."""

    question: str
    hits: Sequence["Hit"]

    def as_dict(self) -> dict[str, Any]:
        """Return a dict that JSON can hold: all but the thumbnails. `page` is 0-based, as everywhere in the library."""
        hits = [asdict(hit) for hit in self.hits]
        for hit in hits:
            del hit["thumbnail"]
        return {"question": self.question, "hits": hits}


def snippet(text: str, question: str, length: int = 160) -> str:
    """Return the part of `text`, of at most `length` characters and dots, with the most words of `question` in it."""
    words = {word for word in _WORD.findall(question.lower()) if len(word) > _SHORT_WORD}
    flat = " ".join(text.split())
    starts = [match.start() for match in _WORD.finditer(flat) if match[0].lower() in words] or [0]

    def matches(start: int) -> int:
        return len(words.intersection(_WORD.findall(flat[start : start + length].lower())))

    start = max(starts, key=matches)  # the first of equals
    part = flat[start : start + length]
    end = start + len(part)
    if end < len(flat) and " " in part:
        part = part[: part.rindex(" ")] + " …"
    return ("… " if start else "") + part


def render_html(answers: Sequence[Answer], *, title: str, subtitle: str) -> str:
    """Return one self-contained HTML page: no scripts, and nothing is loaded from anywhere.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    from nemovlm.images import data_url

    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as missing:
        raise MissingExtraError("the HTML report", "cli") from missing
    environment = Environment(
        loader=PackageLoader("nemovlm.cli", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "snippet": snippet,
        "jpeg": lambda data: data_url(data, "image/jpeg"),
        "file_name": lambda path: Path(path).name,
        "uri": lambda path: Path(path).as_uri(),
    }
    return environment.get_template("answers.html").render(answers=answers, title=title, subtitle=subtitle)
