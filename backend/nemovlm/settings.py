"""Every setting, in one frozen record: given as arguments, else read from `NEMOVLM_*` in the environment."""

import ast
import inspect
import os
from collections.abc import MutableMapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, TypedDict

from pydantic import (
    AliasChoices,
    BaseModel,
    Field,
    InstanceOf,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from nemovlm.choices import DtypeName as DtypeName  # noqa: PLC0414 - with the other settings
from nemovlm.choices import EngineName as EngineName  # noqa: PLC0414
from nemovlm.choices import Truncate
from nemovlm.clock import Clock
from nemovlm.errors import ConfigurationError
from nemovlm.wire.address import HOSTED_URL, Address, parse_address
from nemovlm.wire.nim import Joiner
from nemovlm.wire.quantize import EmbeddingType


class Options(TypedDict, total=False):
    """The settings as arguments of `Embedder`, for type checkers. None means: not given."""

    revision: str | None
    engine: EngineName | None
    base_url: str | list[str] | None
    api_key: str | None
    dimensions: int | None
    truncate: Truncate | None
    max_tokens: int | None
    max_tiles: int | None
    device: str | None
    dtype: DtypeName | None
    batch_tokens: int | None
    engine_options: dict[str, Any] | None
    max_batch_size: int | None
    max_request_bytes: int | None
    max_image_bytes: int | None
    max_concurrency: int | None
    requests_per_minute: float | None
    timeout: float | None
    deadline: float | None
    max_retries: int | None
    headers: dict[str, str] | None
    verify: bool | str | Path | None
    cert: str | Path | tuple[str, str] | None
    proxy: str | None
    joiner: Joiner | None
    embedding_type: EmbeddingType | None
    cache: MutableMapping[str, bytes] | None
    http_client: Any


class EmbedderFields(BaseModel):
    """The settings as fields, None meaning: not given. Frameworks' classes inherit them."""

    model: str | None = None
    """A model id of the catalogue, a hub id with a `revision`, a folder with a checkpoint, or what a server runs."""
    revision: str | None = None
    """The commit of the hub repository; by default the one that the catalogue pins."""
    engine: EngineName | None = None
    """What embeds: `auto` takes a server if there is a `base_url`, else vLLM with a CUDA GPU, else torch. Whether the
    server is a NIM or vLLM's own is found out then; `nim` and `vllm-server` say it."""
    base_url: str | list[str] | None = None
    """The address of a remote engine, or several that share the load, in a list or separated by commas. Where it
    is set, `auto` means remote."""
    api_key: SecretStr | None = Field(default=None, exclude=True)
    """Sent to every `base_url`. Alone it never sends anything off the machine: only `base_url` or `engine` does."""
    dimensions: int | None = Field(default=None, ge=1)
    """Keep the first so many numbers of a vector, then scale to unit length (Matryoshka). Default: all."""
    truncate: Truncate | None = None
    """What to do with a text over the limit: NONE is an error, END and START cut its tokens there."""
    max_tokens: int | None = Field(default=None, ge=8)
    """A lower limit than the model's own, for a local engine."""
    max_tiles: int | None = Field(default=None, ge=1, le=36)
    """Tiles an image may be cut into; fewer are faster and coarser. Default: the model's own (6)."""
    device: str | None = None
    """`cpu`, `cuda`, `cuda:1`, `mps`, or `auto`."""
    dtype: DtypeName | None = None
    """What a local model computes in; vectors are float32 always."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens in one forward pass, padding included. Default: by device."""
    engine_options: dict[str, Any] | None = None
    """More arguments for vLLM's engine (`AsyncEngineArgs`), such as `gpu_memory_utilization` or `enforce_eager`."""
    max_batch_size: int | None = Field(default=None, ge=1)
    """Items in one request."""
    max_request_bytes: int | None = Field(default=None, ge=1024)
    """Bytes of one request; an item that is larger by itself is sent alone."""
    max_image_bytes: int | None = Field(default=None, ge=1024)
    """Bytes of one image file as it is sent: over that, it becomes a JPEG. Hosted NIMs may take 135,000 at most."""
    max_concurrency: int | None = Field(default=None, ge=1)
    """Requests under way at once."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Requests are spread evenly to stay below. Default: no limit. NVIDIA's hosted NIMs are said to allow 40."""
    timeout: float | None = Field(default=None, gt=0)
    """Seconds to wait for the reply to one request."""
    deadline: float | None = Field(default=None, gt=0)
    """Seconds in which a request must be answered, all attempts and waits included."""
    max_retries: int | None = Field(default=None, ge=0)
    """How often a request is sent again after a retryable failure. Rate limits (429) do not count."""
    headers: dict[str, str] | None = Field(default=None, exclude=True, repr=False)
    """Sent with every request."""
    verify: bool | Path | None = None
    """False trusts any certificate of a server; a path trusts those of this CA file, or folder of them, alone. Default:
    SSL_CERT_FILE, SSL_CERT_DIR, REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE of the environment, else what certifi has."""
    cert: Path | tuple[Path, Path] | None = None
    """A client certificate: a PEM file with its key, or the two files."""
    proxy: str | None = Field(default=None, exclude=True, repr=False)
    """The address of a proxy. Default: HTTP_PROXY, HTTPS_PROXY and NO_PROXY of the environment."""
    joiner: Joiner | None = None
    """What stands between a text and its image in a request: a newline, a space, or `<img src='...'/>` around it."""
    embedding_type: EmbeddingType | None = None
    """What a server is to send vectors as: `int8` and `uint8` take a quarter of the bytes of `float`, `binary` and
    `ubinary` 1/32. They come out as float32 of unit length all the same, less exact."""
    cache: Any = Field(default=None, exclude=True, repr=False)
    """A `MutableMapping[str, bytes]` in which vectors are kept and looked up; see `nemovlm.engines.cached`."""
    http_client: Any = Field(default=None, exclude=True, repr=False)
    """An `httpx.AsyncClient`, or a function that makes one. Then timeouts, proxy and certificates are its own, and
    one that was passed as such is not closed and must not be used elsewhere."""

    @field_validator("verify", mode="before")
    @classmethod
    def _truth(cls, value: object) -> object:
        return {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value

    @field_validator("headers")
    @classmethod
    def _without_blanks(cls, headers: dict[str, str] | None) -> dict[str, str] | None:
        return headers and {name.strip(): value.strip() for name, value in headers.items()}

    @field_validator("cache", "http_client")
    @classmethod
    def _is_an_object(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.field_name == "cache" and not hasattr(value, "get"):
            raise ValueError("it must be a mapping of str to bytes, passed as an argument")
        if value is not None and info.field_name == "http_client" and not (hasattr(value, "aclose") or callable(value)):
            raise ValueError("it must be an async client of httpx or a function that makes one, passed as an argument")
        return value

    def arguments(self) -> dict[str, Any]:
        """Return the settings that were given, as arguments of `Embedder`."""
        given = {name: getattr(self, name) for name in EmbedderFields.model_fields}
        if self.api_key:
            given["api_key"] = self.api_key.get_secret_value()
        return {name: value for name, value in given.items() if value is not None}


def field_descriptions() -> dict[str, str]:
    """Return what each setting is, by name: the docstring of its field, read from this file when it is asked for.

    pydantic could do that (`use_attribute_docstrings`), but at each start, where it takes longer than all else here.
    """
    try:
        module = ast.parse(inspect.getsource(EmbedderFields))
    except OSError:  # installed without sources
        return {}
    descriptions = {}
    for fields in module.body:
        for field, doc in pairwise(fields.body if isinstance(fields, ast.ClassDef) else ()):
            match field, doc:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(str(text))):
                    descriptions[name] = " ".join(text.split())
    return descriptions


class Settings(BaseSettings, EmbedderFields):
    """The settings of an `Embedder`. An argument beats the environment, and the environment beats the default."""

    model_config = SettingsConfigDict(
        env_prefix="NEMOVLM_", env_ignore_empty=True, extra="forbid", frozen=True, protected_namespaces=()
    )

    engine: EngineName = "auto"
    hosted_api_key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("NVIDIA_API_KEY"))
    """The key of NVIDIA's hosted NIMs. It is sent to them alone."""
    clock: InstanceOf[Clock] = Field(default=Clock(), exclude=True, repr=False)
    """How a remote engine waits. For tests; no setting."""
    truncate: Truncate = "NONE"
    device: str = "auto"
    dtype: DtypeName = "auto"
    max_batch_size: int = Field(default=64, ge=1)
    max_request_bytes: int = Field(default=4_000_000, ge=1024)
    max_image_bytes: int = Field(default=1_000_000, ge=1024)
    max_concurrency: int = Field(default=8, ge=1)
    timeout: float = Field(default=120.0, gt=0)
    deadline: float = Field(default=300.0, gt=0)
    max_retries: int = Field(default=5, ge=0)
    verify: bool | Path = True
    joiner: Joiner = "newline"
    embedding_type: EmbeddingType = "float"

    @classmethod
    def from_kwargs(cls, **arguments: Any) -> "Settings":
        """Return the settings for the arguments that are not None.

        Raises:
            ConfigurationError: One of them is wrong, or does not fit another.
        """
        try:
            return cls(**{name: value for name, value in arguments.items() if value is not None})
        except ValidationError as error:
            raise ConfigurationError("; ".join(_validation_message(detail) for detail in error.errors())) from None

    @property
    def remote(self) -> bool:
        """Whether items leave this process for a server."""
        return self.engine in {"nim", "vllm-server"} or (self.engine == "auto" and self.base_url is not None)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The servers of a remote engine."""
        urls = self.base_url.split(",") if isinstance(self.base_url, str) else self.base_url or ()
        return tuple(dict.fromkeys(parse_address(url) for url in urls if url.strip()))

    def key_for(self, address: Address) -> str | None:
        """Return the key that a server is to get, if any."""
        return _bare(self.api_key) or (_bare(self.hosted_api_key) if address.hosted else "") or None

    def secrets_for(self, address: Address) -> list[str]:
        """Return what a server gets and must not be shown: its key, and what the headers hold."""
        headers = (self.headers or {}).values()
        sent = [self.key_for(address) or "", *headers, *(value.rpartition(" ")[2] for value in headers)]
        return [secret for secret in sent if len(secret) >= _SHORTEST_SECRET]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.engine == "nim" and not self.base_url:
            # The record is frozen for its users; here it is still being made.
            object.__setattr__(self, "base_url", os.environ.get("NVIDIA_BASE_URL") or HOSTED_URL)
        for key in (_bare(self.api_key), _bare(self.hosted_api_key)):
            if not (key.isascii() and key.isprintable()):
                raise ConfigurationError("the API key has characters in it that no key has; was it pasted whole?")
        if self.engine_options and (self.remote or self.engine == "transformers"):
            other = "a server" if self.remote else self.engine
            raise ConfigurationError(f"engine_options are for engine='vllm'; {other} takes none")
        if not self.remote:
            if self.embedding_type != "float":
                raise ConfigurationError("embedding_type is for a remote engine; a local one has nothing to send")
            return self
        self._check_remote()
        return self

    def _check_remote(self) -> None:
        if self.engine == "vllm-server" and self.base_url is None:
            raise ConfigurationError("engine='vllm-server' wants the address of a server: pass base_url")
        if self.engine == "vllm-server" and self.embedding_type != "float":
            raise ConfigurationError(f"embedding_type={self.embedding_type!r} is for NIMs; a vLLM server sends floats")
        if self.embedding_type in {"binary", "ubinary"} and (self.dimensions or 0) % 8:
            raise ConfigurationError(f"dimensions={self.dimensions} is no multiple of 8, as packed bits want")
        if not self.addresses:
            raise ConfigurationError(f"base_url {self.base_url!r} names no server")
        for name in ("max_tokens", "max_tiles"):
            if getattr(self, name) is not None:
                raise ConfigurationError(f"{name} is for a local engine; a server has limits of its own")


def _bare(key: SecretStr | None) -> str:
    """Return a key without what files, quotes and headers leave around it."""
    given = key.get_secret_value().strip().strip("'\"") if key else ""
    scheme, _, rest = given.partition(" ")
    return (rest if scheme.lower() == "bearer" else given).strip()


def _validation_message(detail: Any) -> str:
    if isinstance(error := detail.get("ctx", {}).get("error"), ConfigurationError):
        return str(error)
    name = ".".join(str(part) for part in detail["loc"])
    variable = f"NEMOVLM_{name.upper()}"
    where = f" (from {variable})" if os.environ.get(variable) == detail["input"] else ""
    if detail["type"] == "extra_forbidden":
        return f"there is no setting {name!r}"
    value = "" if name in _SECRET_FIELDS else f"={detail['input']!r}"
    return f"{name}{value}{where} is no valid setting: {detail['msg'].lower()}"


_SHORTEST_SECRET = 6  # what is shorter, such as "1" in a header, would only blot sentences
_SECRET_FIELDS = {"api_key", "NVIDIA_API_KEY", "headers", "proxy", "http_client"}  # they may hold secrets
