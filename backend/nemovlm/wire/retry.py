"""When a request is worth repeating, and how long to wait before.

The policy is that of NVIDIA's NeMo-Retriever client (`main_text_embed.py`): the same statuses, what the server asks
for in `Retry-After`, else full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""The statuses that may be other ones a moment later."""

TOO_MANY_REQUESTS = 429

MAX_WAIT = 30.0
"""Seconds: the most that is waited between two attempts, unless the server asks for more."""


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds that `Retry-After` asks for, be it a number or a date (RFC 9110, 10.2.3)."""
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
    return max(0.0, seconds) if seconds < float("inf") else None
