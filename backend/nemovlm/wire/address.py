"""What a base URL stands for: any of the spellings that people have becomes the addresses of its routes."""

from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from nemovlm.errors import ConfigurationError

HOSTED_URL = "https://integrate.api.nvidia.com/v1"
"""Where NVIDIA hosts its NIMs (the model card's examples)."""

_HOSTED = frozenset({"integrate.api.nvidia.com", "ai.api.nvidia.com"})
_NVCF_STATUS = "https://api.nvcf.nvidia.com/v2/nvcf/pexec/status/"


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
    def tokenize(self) -> str:
        """Where a vLLM server counts tokens: beside `/v1`, not below it."""
        return f"{self.base.removesuffix('/v1')}/tokenize"

    def status(self, request_id: str) -> str:
        """Return where to ask for a reply that was put off with 202.

        NVIDIA's hosted NIMs answer that question elsewhere (`langchain-nvidia-ai-endpoints`, `_common.py`). Any
        other server is asked itself: its key is nobody else's business.
        """
        if self.hosted:
            return _NVCF_STATUS + request_id
        parts = urlsplit(self.base)
        return f"{parts.scheme}://{parts.netloc}/v2/nvcf/pexec/status/{request_id}"


@lru_cache(maxsize=64)
def parse_address(url: str) -> Address:
    """Return the routes of a base URL: `http://host`, `.../v1`, `.../v1/`, `.../v1/embeddings`, with any prefix.

    Raises:
        ConfigurationError: It is no http(s) URL, has a user, a query or a fragment in it, or names one of NVIDIA's own
            hosts by http.
    """
    url = url.strip()
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for a port that is no number
    except ValueError as error:
        raise ConfigurationError(f"base_url is no valid URL ({error})") from None
    if parts.username or parts.password:
        raise ConfigurationError("base_url must hold no user or password; pass them as api_key or in headers")
    if parts.scheme not in {"http", "https"} or not parts.hostname or any(letter.isspace() for letter in url):
        hint = f"; did you mean 'http://{url}'?" if url and not url.startswith("http") and "://" not in url else ""
        raise ConfigurationError(f"base_url {url!r} is no http:// or https:// address{hint}")
    if parts.scheme == "http" and parts.hostname in _HOSTED:
        raise ConfigurationError(f"base_url {url!r} would send a key in clear; {parts.hostname} is asked by https://")
    if parts.query or parts.fragment:
        raise ConfigurationError(f"base_url {url.partition('?')[0]!r} must have no query and no fragment")
    base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
    if base.endswith("/embeddings"):
        return Address(base.removesuffix("/embeddings"), base)
    if not base.endswith("/v1"):
        base += "/v1"
    return Address(base, f"{base}/embeddings")
