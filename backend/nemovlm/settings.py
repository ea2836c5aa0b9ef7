"""Every knob, in one frozen record: given as arguments, else read from `NEMOVLM_*` in the environment."""

import os
from typing import Any, Literal, TypeAlias

from pydantic import AliasChoices, BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from nemovlm.errors import ConfigurationError
from nemovlm.inputs import Truncate

EngineName: TypeAlias = Literal["auto", "vllm", "transformers", "nim", "vllm-server"]
DtypeName: TypeAlias = Literal["auto", "float32", "bfloat16", "float16"]


class Settings(BaseSettings):
    """The knobs of an `Embedder`. An argument beats the environment, and the environment beats the default."""

    model_config = SettingsConfigDict(
        env_prefix="NEMOVLM_", env_ignore_empty=True, extra="forbid", frozen=True, protected_namespaces=()
    )

    model: str | None = None
    """A model id of the catalogue, a hub id with a `revision`, or a folder with a checkpoint."""
    revision: str | None = None
    """The commit of the hub repository; by default the one that the catalogue pins."""
    engine: EngineName = "auto"
    base_url: str | None = None
    """The address of a remote engine. Where it is set, `auto` means remote."""
    api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("api_key", "NEMOVLM_API_KEY", "NVIDIA_API_KEY")
    )
    """Alone it never sends anything off the machine: only `base_url` or `engine` does."""
    dimensions: int | None = Field(default=None, ge=1)
    """Keep the first so many components, then scale to unit length (Matryoshka). Default: all."""
    truncate: Truncate = "NONE"
    """What to do with a text over the limit: NONE is an error, END and START cut its tokens there."""
    max_tokens: int | None = Field(default=None, ge=8)
    """A lower limit than the model's own."""
    max_tiles: int | None = Field(default=None, ge=1, le=36)
    """Tiles an image may be cut into; fewer are faster and coarser. Default: the model's own (6)."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, `mps`, or `auto`."""
    dtype: DtypeName = "auto"
    """What the model computes in; vectors are float32 always."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens in one forward pass, padding included. Default: by device."""

    @classmethod
    def given(cls, **arguments: Any) -> "Settings":
        """Return the settings for the arguments that are not None. Raises `ConfigurationError`."""
        try:
            return cls(**{name: value for name, value in arguments.items() if value is not None})
        except ValidationError as error:
            raise ConfigurationError("; ".join(_complaint(detail) for detail in error.errors())) from None


class Knobs(BaseModel):
    """The same knobs as fields of a framework's class: all optional, None meaning environment, then default."""

    model: str | None = None
    revision: str | None = None
    engine: EngineName | None = None
    base_url: str | None = None
    api_key: SecretStr | None = Field(default=None, exclude=True)
    dimensions: int | None = None
    truncate: Truncate | None = None
    max_tokens: int | None = None
    max_tiles: int | None = None
    device: str | None = None
    dtype: DtypeName | None = None
    batch_tokens: int | None = None

    def arguments(self) -> dict[str, Any]:
        """Return the knobs that were given, as arguments of `Embedder`."""
        given = {name: getattr(self, name) for name in Knobs.model_fields}
        if self.api_key:
            given["api_key"] = self.api_key.get_secret_value()
        return {name: value for name, value in given.items() if value is not None}


def _complaint(detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    variable = f"NEMOVLM_{name.upper()}"
    where = f" (from {variable})" if os.environ.get(variable) == detail["input"] else ""
    if detail["type"] == "extra_forbidden":
        return f"there is no setting {name!r}"
    value = "" if name == "api_key" else f"={detail['input']!r}"  # a key is never shown
    return f"{name}{value}{where} is no valid setting: {detail['msg'].lower()}"
