"""What a reply says about sending the same request again. What is made of that: `engines/remote/retry.py`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRYABLE_STATUSES = frozenset({408, 425, 429, 499, 500, 502, 503, 504, *range(520, 531), 598, 599})
"""The statuses that may be other ones a moment later: those of NVIDIA's NeMo-Retriever client (`main_text_embed.py`),
and those that proxies and content delivery networks have for a server that they did not reach, or not in time."""

TOO_MANY_REQUESTS = 429


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds that `Retry-After` asks for, be it a number or a date (RFC 9110, 10.2.3).

    None where it asks for no wait at all: what is to be sent again at once is sent again at once for ever.
    """
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, TypeError, OverflowError):
            return None
        if date.tzinfo is None:  # "-0000": the date names no zone
            date = date.replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    return seconds if 0 < seconds < float("inf") else None
