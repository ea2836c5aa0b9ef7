"""What a base URL stands for: any of the spellings that people have becomes the addresses of its routes."""

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from nemovlm.errors import ConfigurationError

HOSTED_URL = "https://integrate.api.nvidia.com/v1"
"""Where NVIDIA hosts its NIMs (the model card's examples)."""

_BASE = re.compile(
    r"(?P<prefix>.*/)v1(?:/(?:embeddings|models|completions|chat/completions|responses|ranking|health/live|health/ready))?",
    re.IGNORECASE,
)
"""The path of a base URL, or of one of the routes below it, which people paste."""

_HOSTED = frozenset({"integrate.api.nvidia.com", "ai.api.nvidia.com"})
_NVCF = "https://api.nvcf.nvidia.com"


@dataclass(frozen=True)
class Address:
    """The routes of one server: `embeddings`, and under `base` (without a slash at its end) all others."""

    base: str
    embeddings: str

    @property
    def host(self) -> str:
        """The host, with its port where one was given: how errors call the server."""
        return urlsplit(self.base).netloc

    @property
    def hosted(self) -> bool:
        """Whether it is one of NVIDIA's own, which want a key."""
        return urlsplit(self.base).hostname in _HOSTED

    @property
    def origins(self) -> tuple[str, ...]:
        """Scheme and host of all that is asked."""
        parts = urlsplit(self.base)
        return (f"{parts.scheme}://{parts.netloc}", *((_NVCF,) if self.hosted else ()))

    @property
    def tokenize(self) -> str:
        """Where a vLLM server counts tokens: beside `/v1`, not below it."""
        return f"{self.base.removesuffix('/v1')}/tokenize"

    def status(self, request_id: str) -> str:
        """Return where to ask for a reply that was put off with 202.

        NVIDIA's hosted NIMs answer that question elsewhere (`langchain-nvidia-ai-endpoints`, `_common.py`). Any
        other server is asked itself: its key is nobody else's business.
        """
        return f"{self.origins[-1]}/v2/nvcf/pexec/status/{request_id}"


@lru_cache(maxsize=64)
def parse_address(url: str) -> Address:
    """Return the routes of a base URL: `http://host`, `.../v1`, `.../v1/`, `.../v1/embeddings`, with any prefix.

    Taken for what they mean: quotes around it, slashes that are doubled, capitals where they make no difference, a dot
    at the end of the host, other routes of servers in place of `/embeddings`.

    Raises:
        ConfigurationError: It is no http(s) URL, has a user, a query or a fragment in it, or names one of NVIDIA's own
            hosts by http.
    """
    url = url.strip().strip("'\"").strip()
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is no number
    except ValueError as error:
        raise ConfigurationError(f"base_url is no valid URL ({error})") from None
    if parts.username or parts.password:
        raise ConfigurationError("base_url must hold no user or password; pass them as api_key or in headers")
    host = (parts.hostname or "").removesuffix(".")
    if parts.scheme not in {"http", "https"} or not host or any(letter.isspace() for letter in url):
        hint = f"; did you mean 'http://{url}'?" if url and not url.startswith("http") and "://" not in url else ""
        raise ConfigurationError(f"base_url {url!r} is no http:// or https:// address{hint}")
    if parts.scheme == "http" and host in _HOSTED:
        raise ConfigurationError(f"base_url {url!r} would send a key in clear; {host} is asked by https://")
    if parts.query or parts.fragment:
        raise ConfigurationError(f"base_url {url.partition('?')[0]!r} must have no query and no fragment")
    netloc = (f"[{host}]" if ":" in host else host) + (f":{parts.port}" if parts.port is not None else "")
    path = re.sub("/+", "/", parts.path).rstrip("/")
    base = f"{parts.scheme}://{netloc}"
    if known := _BASE.fullmatch(path):
        base += f"{known['prefix']}v1"
    elif path.endswith("/embeddings"):
        base += path.removesuffix("/embeddings")
    else:
        base += f"{path}/v1"
    return Address(base, f"{base}/embeddings")
