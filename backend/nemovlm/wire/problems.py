"""What went wrong, read from a server's reply: every shape of error that NIMs and what stands before them have.

Shapes: `{"error": "..."}` (hosted), `{"error": {"message": ...}}` (OpenAI), `{"object": "error", "message": ...}`
(NIM 1.x), `{"detail": "..." | [{"loc", "msg"}] | null}` (FastAPI), RFC 9457 problems (NVCF), plain text and HTML.
Gateways send them with status 200, too, and have the real one in the body.
"""

import html
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nemovlm.errors import (
    AuthenticationError,
    ImageError,
    InputError,
    InputTooLongError,
    ModelNotServedError,
    NemoVLMError,
    ProtocolError,
    RateLimitedError,
    RequestRefusedError,
    ServerError,
)
from nemovlm.inputs import Modality
from nemovlm.wire.retry_after import RETRYABLE_STATUSES, retry_after

_EXCERPT = 300  # characters of a server's own words in a message
_BAD_REQUEST = frozenset({400, 422})
_SECRET = re.compile(
    r"data:[\w/+.-]*[;,][^\s'\"<>]*"  # data URLs
    r"|[A-Za-z0-9+/_-]{64,}=*"  # long runs of base64
    r"|(?i:bearer)\s+\S+|nvapi-[\w-]+"
)
# A style or script ends at the next one at the latest: else text full of openers would take quadratic time.
_TAG = re.compile(r"<(style|script)\b(?:(?!<\1\b).)*?</\1>|<[^<>]*>", re.DOTALL | re.IGNORECASE)
# "Input length 576 exceeds maximum allowed token size 512", "maximum context length is 512 tokens ... 576 tokens"; vLLM
# has another sentence for images: "The decoder prompt (length 576) is longer than the maximum model length of 512".
_TOO_LONG = re.compile(
    r"exceed\w* (?:the )?max\w* (?:allowed )?(?:token|input|context|sequence)|maximum context length"
    r"|longer than the maximum model length"
)
_LENGTHS = (
    re.compile(r"length (?P<tokens>\d+) exceeds maximum allowed token size (?P<limit>\d+)"),
    re.compile(
        r"maximum context length is (?P<limit>\d+) tokens\. However, your prompt contains at least (?P<tokens>\d+)"
    ),
    re.compile(r"prompt \(length (?P<tokens>\d+)\) is longer than the maximum model length of (?P<limit>\d+)"),
)
_IMAGE = re.compile(r"image|pixel|decode|base64|data url", re.IGNORECASE)
_FIELD = re.compile(
    r"\b(?:(?P<encoding_format>encoding[ _-]?format)|(?P<embedding_type>embedding[ _-]?type)"
    r"|(?P<input_type>input[ _-]?type)|(?P<modality>modality|modalities)|(?P<dimensions>dimensions?))\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Problem:
    """A reply that is no success, or (without a status) no reply at all."""

    message: str
    """The server's own words, in one line, without keys and image data."""
    server: str
    """Its host, with the port where one was given."""
    status: int | None = None
    request_id: str | None = None
    """How the server's log names the request."""
    retry_after: float | None = None
    """Seconds for which the server asks to be left alone."""
    items: Mapping[int, str] = field(default_factory=dict)
    """What it says of single items, by their position in the request."""
    fields: Sequence[str] = ()
    """The optional fields of a request that a refusal names: the likeliest that it is about first."""
    hint: str = ""
    """What was found out since, for the end of a message."""

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status is None or self.status in RETRYABLE_STATUSES

    @property
    def divisible(self) -> bool:
        """Whether a part of the request may succeed."""
        return self.status in {*_BAD_REQUEST, 413, 500}

    def error(self, modality: Modality, position: int | None = None) -> NemoVLMError:
        """Return the error for one item of the request, at `position` where the server named it."""
        said = self.items.get(position, self.message) if position is not None else self.message
        error = self._error(said, modality, named=position is not None)
        error.status, error.request_id = self.status, self.request_id
        return error

    def _error(self, said: str, modality: Modality, *, named: bool) -> NemoVLMError:
        if self.status is None:
            return ServerError(f"{self.server} could not be reached or broke off: {said}")
        if self.status in _BAD_REQUEST:
            kind, advice = self._item_error(said, modality, named=named)
        elif self.status in _KINDS:
            kind, advice = _KINDS[self.status]
        else:
            kind, advice = ServerError if self.retryable or self.status > 500 else RequestRefusedError, ""
            if self.status < 300:
                kind, advice = ProtocolError, "; check base_url, and what stands before the server"
        message = f"{self.server} answered {self.status}{f': {said}' if said else ''}{advice}{self.hint}"
        lengths = next(filter(None, (pattern.search(said) for pattern in _LENGTHS)), None)
        if kind is InputTooLongError and lengths:
            return InputTooLongError(message, tokens=int(lengths["tokens"]), limit=int(lengths["limit"]))
        return kind(message)

    @staticmethod
    def _item_error(said: str, modality: Modality, *, named: bool) -> tuple[type[NemoVLMError], str]:
        if _TOO_LONG.search(said):
            return InputTooLongError, "; shorten the text or pass truncate='END'"
        if modality != "text" and _IMAGE.search(said):
            return ImageError, "; leave the image out or save it again"
        return InputError if named else RequestRefusedError, ""


_KINDS: dict[int, tuple[type[NemoVLMError], str]] = {
    401: (AuthenticationError, "; check api_key (NVIDIA_API_KEY is sent to NVIDIA's own hosts alone)"),
    402: (RequestRefusedError, "; check the account: its credits, and how it pays"),
    403: (AuthenticationError, "; check what the key may be used for"),
    404: (ModelNotServedError, "; check the model's id, the account and base_url"),
    405: (RequestRefusedError, "; check base_url: what is there is asked otherwise"),
    407: (AuthenticationError, "; check user and password of the proxy"),
    413: (InputError, "; the item alone is over the server's limit: lower max_image_bytes"),
    429: (RateLimitedError, "; set requests_per_minute, or a later deadline"),
}


def read_problem(
    server: str, status: int, headers: Mapping[str, str], content: bytes, secrets: Collection[str]
) -> Problem:
    """Return what a reply other than 200 says. `secrets` are taken out of it, should it echo them."""
    text = content[:100_000].decode(errors="replace")
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):  # the latter for what is nested thousands deep
        body = None
        text = html.unescape(_TAG.sub(" ", text))
    if 200 <= status < 300:
        status = _hidden_status(body) or status
        if body is None and text.lstrip()[:1] in {"{", "["}:  # JSON that was cut off: vectors, no words
            text = ""
    said = "; ".join(dict.fromkeys([text] if body is None else _sentences(body)))
    message = _clean(said, secrets)
    if 300 <= status < 400:
        message = (
            f"a redirect to {_clean(headers.get('location', 'nowhere'), secrets)}; set base_url to where the server is"
        )
    items = dict(_items(body, secrets))
    return Problem(
        message=message,
        server=server,
        status=status,
        request_id=_request_id(headers, body, secrets),
        retry_after=retry_after(headers) if status in RETRYABLE_STATUSES else None,
        items=items,
        fields=_named_fields(body, said) if status in _BAD_REQUEST and not items else (),
    )


def _hidden_status(body: Any) -> int | None:
    """Return the status that the error in a reply of status 200 would have had."""
    outer = body[0] if isinstance(body, list) and body else body
    for part in (outer, outer.get("error")) if isinstance(outer, dict) else ():
        for name in ("code", "status", "status_code", "statusCode"):
            given = str(part.get(name)) if isinstance(part, dict) else ""
            if re.fullmatch(r"[45]\d\d", given, re.ASCII):
                return int(given)
    return None


def _request_id(headers: Mapping[str, str], body: Any, secrets: Collection[str]) -> str | None:
    """Return the name of the request in the server's log: from a header, or where NVCF's problems have it."""
    for name in ("nvcf-reqid", "x-request-id"):
        if name in headers:
            return headers[name]
    given = body.get("requestId") if isinstance(body, dict) else None
    return _clean(given, secrets) if isinstance(given, str) else None


def _sentences(body: Any, depth: int = 8) -> Iterator[str]:
    """Yield what people are meant to read, wherever it stands, unless it is nested deeper than anybody means."""
    if not depth:
        return
    if isinstance(body, str):
        yield body
    elif isinstance(body, list):
        for part in body[:5]:
            yield from _sentences(part, depth - 1)
    elif isinstance(body, dict):
        if isinstance(body.get("msg"), str):  # FastAPI: where, and what
            loc = body.get("loc")
            where = ".".join(str(part) for part in loc if part != "body") if isinstance(loc, list) else ""
            yield f"{where}: {body['msg']}" if where else body["msg"]
            return
        for name in ("error", "message", "title", "detail"):
            said = list(_sentences(body.get(name), depth - 1))
            if said and not (name == "detail" and isinstance(body.get("message"), str)):
                yield from said


def _items(body: Any, secrets: Collection[str]) -> Iterator[tuple[int, str]]:
    """Yield (position, message) for each item that the server blames: `{"loc": ["body", "input", 3], "msg": ...}`."""
    details = body.get("detail") if isinstance(body, dict) else None
    for detail in details if isinstance(details, list) else []:
        match detail:
            case {"loc": ["body", "input", int(position), *_], "msg": str(message)}:
                yield position, _clean(message, secrets)


def _named_fields(body: Any, said: str) -> Sequence[str]:
    """Return the optional fields that a refusal names: those first that it names where only names stand."""
    places = []
    if isinstance(body, dict):
        error, details = body.get("error"), body.get("detail")
        places = [error.get("param")] if isinstance(error, dict) else []  # OpenAI's
        for detail in details if isinstance(details, list) else []:  # FastAPI's
            loc = detail.get("loc") if isinstance(detail, dict) else None
            places += loc if isinstance(loc, list) else []
    found = (match.lastgroup for text in [*map(str, places), said] for match in _FIELD.finditer(text))
    return tuple(dict.fromkeys(name for name in found if name))


def _clean(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    text = " ".join(_SECRET.sub("***", text).split())
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"
