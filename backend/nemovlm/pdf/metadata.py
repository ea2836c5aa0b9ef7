"""What a PDF says of itself: its strings, and of them its information dictionary. Knows no PDFium."""

import re
from collections.abc import Callable
from datetime import datetime
from unicodedata import category

# General categories of Unicode: control characters, private use, halves of characters, and unassigned.
_NO_TEXT = {"Cc", "Co", "Cs", "Cn"}
_REPLACEMENT = "\ufffd"  # for what is no character

# PDF 32000-1, 14.3.3. `Trapped` is left out: it concerns printing presses.
_KEYS = ("Title", "Author", "Subject", "Keywords", "Creator", "Producer", "CreationDate", "ModDate")
# PDF 32000-1, 7.9.4: (D:YYYYMMDDHHmmSSOHH'mm), of which all but the year may be left out.
_DATE = re.compile(r"(?:D:)?(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:Z.*|([+-]\d\d)'?(\d\d)?'?)?")


def clean(text: str) -> str:
    """Return a string of a PDF as every store can hold it, without what is no text; or "" if a third of it is none.

    Fonts of symbols have their bullets in private use, here and there among text. But a font that does not say which
    letters its glyphs are leaves control characters, and letters in between that happen to come of it and mean nothing.
    Of 120 pages of public test files with such characters, those that can be read have less than a tenth of them. Each
    string that leaves `pdf/` has been here.
    """
    text = text.replace("\0", "").replace("\r\n", "\n").replace("\r", "\n")
    no_text = {letter for letter in set(text) if category(letter) in _NO_TEXT and letter not in "\n\t"}
    left = text.translate({ord(letter): None for letter in no_text}).strip() if no_text else text.strip()
    unreadable = sum(map(text.count, no_text)) + text.count(_REPLACEMENT)
    return left if 2 * unreadable <= len("".join(left.split())) - left.count(_REPLACEMENT) else ""


def read_info(read: Callable[[str], str]) -> dict[str, str]:
    """Return the information dictionary of a PDF: all keys, in lower case, and "" where the PDF does not say.

    Args:
        read: Key -> what the PDF has there, or "".
    """
    return {key.lower(): iso_date(read(key)) if key.endswith("Date") else read(key) for key in _KEYS}


def iso_date(date: str) -> str:
    """Return a date of a PDF as ISO 8601, or unchanged if it is none."""
    if not (match := _DATE.fullmatch(date)):
        return date
    year, *parts, zone_hours, zone_minutes = match.groups()
    month, day, *time = (part or least for part, least in zip(parts, ("01", "01", "00", "00", "00"), strict=True))
    zone = f"{zone_hours}:{zone_minutes or '00'}" if zone_hours else "+00:00" if "Z" in date else ""
    try:
        return datetime.fromisoformat(f"{year}-{month}-{day}T{':'.join(time)}{zone}").isoformat()
    except ValueError:
        return date
