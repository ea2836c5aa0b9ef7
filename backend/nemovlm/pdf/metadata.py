"""What a PDF says of itself: its strings, and of them its information dictionary. Knows no PDFium."""

import re
from collections.abc import Callable
from datetime import datetime

# PDFium's marks for a hyphen at the end of a line, behind which the word goes on, and NULs, which no database takes.
_NO_TEXT = str.maketrans("", "", "\ufffe\x02\x00")

# PDF 32000-1, 14.3.3. `Trapped` is left out: it concerns printing presses.
_KEYS = ("Title", "Author", "Subject", "Keywords", "Creator", "Producer", "CreationDate", "ModDate")
# PDF 32000-1, 7.9.4: (D:YYYYMMDDHHmmSSOHH'mm), of which all but the year may be left out.
_DATE = re.compile(r"(?:D:)?(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:Z.*|([+-]\d\d)'?(\d\d)?'?)?")


def clean(text: str) -> str:
    """Return a string of a PDF as every store can hold it. Each that leaves `pdf/` has been here."""
    return text.translate(_NO_TEXT).replace("\r\n", "\n").strip()


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
