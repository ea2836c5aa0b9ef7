"""Images on the web, for whoever asks for one by name: `ImageUrl`.

Nothing else in this package fetches an address that came with the data.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from nemovlm.errors import ImageError
from nemovlm.proxies import proxy_for

if TYPE_CHECKING:
    import httpx

MAX_BYTES = 25_000_000
"""Of an image file: what the model card of llama-3.2-nemoretriever-1b-vlm-embed-v1 allows."""

_TIMEOUT = 30.0  # seconds to connect, and between two parts of a reply
_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class ImageUrl:
    """An image at an `http://` or `https://` address, to be fetched when it is embedded.

    A plain `str` is never fetched: who wraps an address in this asks for it, and answers for where it leads.

    Raises:
        ImageError: It is no such address.
    """

    url: str

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in {"http", "https"}:
            raise ImageError(f"{self.url[:200]!r} is no http:// or https:// address")


def download(source: ImageUrl) -> bytes:
    """Fetch the file behind an address, of `MAX_BYTES` at the most. Blocks.

    Raises:
        ImageError: It cannot be fetched, or is larger.
    """
    import httpx

    shown = source.url.partition("?")[0][:200]  # what follows may be a signature
    url = source.url
    try:
        for _ in range(_REDIRECTS + 1):
            proxy = proxy_for(url)
            with (
                httpx.Client(
                    timeout=_TIMEOUT,
                    proxy=proxy.url if proxy else None,
                    verify=httpx.create_ssl_context(),  # which reads SSL_CERT_FILE; proxies are read here
                    trust_env=False,
                ) as client,
                client.stream("GET", url) as reply,
            ):
                if reply.next_request is None:
                    return _read(reply, shown)
                url = str(reply.next_request.url)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, ImportError) as error:  # the last two: of a proxy
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{shown} cannot be fetched ({type(error).__name__}); download it and pass its bytes"
        ) from error
    raise ImageError(f"{shown} leads from one address to the next; pass the bytes of the image")


def _read(reply: "httpx.Response", shown: str) -> bytes:
    if not reply.is_success:
        raise ImageError(f"{shown} answered {reply.status_code}; pass the bytes of the image")
    data = bytearray()
    for part in reply.iter_bytes():
        data += part
        if len(data) > MAX_BYTES:
            raise ImageError(f"{shown} is over {MAX_BYTES} bytes; pass a smaller one")
    return bytes(data)
