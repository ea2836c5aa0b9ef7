"""What the embedding classes for frameworks have in common: the settings as fields, over one `Embedder`."""

from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from pydantic import ConfigDict, PrivateAttr

from nemovlm.embedder import Embedder
from nemovlm.errors import NemoVLMError
from nemovlm.inputs import Passage
from nemovlm.paths import readable_name
from nemovlm.settings import EmbedderFields

T = TypeVar("T")

# What NVIDIA's own clients for LangChain and LlamaIndex call some settings.
_NVIDIA_NAMES = {
    "nvidia_base_url": "base_url",
    "nvidia_api_key": "api_key",
    "default_headers": "headers",
    "verify_ssl": "verify",
    "async_http_client": "http_client",
}


class Adapter(EmbedderFields):
    """The settings of an `Embedder` as fields, what is None being read from `NEMOVLM_*`, and the `Embedder` itself.

    `nvidia_base_url`, `nvidia_api_key`, `default_headers`, `verify_ssl` and `async_http_client` are taken as well, as
    NVIDIA's own clients call them.

    Raises:
        ConfigurationError: A setting is wrong, as in `Embedder`.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, protected_namespaces=())

    _embedder: Embedder = PrivateAttr()

    def __init__(self, **fields: Any) -> None:
        super().__init__(**_translate_nvidia_names(fields))
        self._embedder = Embedder(**self.arguments())  # checks the settings; loads nothing

    def __eq__(self, other: object) -> bool:
        """Whether it does the same: not with the same `Embedder` and callbacks, but with ones like them."""
        if type(other) is not type(self):
            return False
        return self.embedder.settings == other.embedder.settings and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        """A number that equal ones have in common, whatever their other fields are: pydantic's own fails for lists."""
        return hash((type(self), self.model, self.engine, str(self.base_url), self.dimensions))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy; with `update`, one that does what its fields say."""
        if not update:
            return super().model_copy(deep=deep)
        return type(self)(**{name: getattr(self, name) for name in self.model_fields_set} | dict(update))

    @property
    def embedder(self) -> Embedder:
        """The embedder behind it, for all that the framework has no word for."""
        return self._embedder

    @property
    def available_models(self) -> list[str]:
        """The ids of the models that could be asked for. With a remote engine, this blocks on the server each time.

        Raises:
            EngineError: The server cannot be asked.
        """
        return self._embedder.available_models()

    @classmethod
    def get_available_models(cls, **fields: Any) -> list[str]:
        """Return the `available_models` of an object with these fields."""
        return cls(**fields).available_models


def readable(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as stores can hold them: what is text may name a file whose name is not UTF-8."""
    return {key: readable_name(value) if isinstance(value, str) else value for key, value in metadata.items()}


def passage_or_error(make: Callable[[T], Passage], value: T) -> Passage | NemoVLMError:
    """Return the passage that `make` makes of something of a framework's, or the error that it raises, in its place."""
    try:
        return make(value)
    except NemoVLMError as error:
        return error


def _translate_nvidia_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a framework's class with the names that NVIDIA's own client has for them replaced.

    Where both names were given, the client's wins, as there; None and "" mean that it was not given.
    """
    ours = {name: value for name, value in fields.items() if name not in _NVIDIA_NAMES}
    theirs = {_NVIDIA_NAMES[name]: value for name, value in fields.items() if name in _NVIDIA_NAMES}
    return ours | {name: value for name, value in theirs.items() if value is not None and value != ""}
