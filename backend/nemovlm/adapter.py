"""What the embedding classes for frameworks have in common: the knobs as fields, over one `Embedder`."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ConfigDict, PrivateAttr

from nemovlm.embedder import Embedder
from nemovlm.settings import Knobs, peers_names


class Adapter(Knobs):  # noqa: PLW1641 - pydantic makes the hash of a frozen subclass
    """The knobs of an `Embedder` as fields, what is None being read from `NEMOVLM_*`, and the `Embedder` itself.

    `nvidia_base_url`, `nvidia_api_key`, `default_headers`, `verify_ssl` and `async_http_client` are taken as well, as
    NVIDIA's own clients call them.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, protected_namespaces=())

    _embedder: Embedder = PrivateAttr()

    def __init__(self, **fields: Any) -> None:
        super().__init__(**peers_names(fields))
        self._embedder = Embedder(**self.arguments())  # checks the settings; loads nothing

    def __eq__(self, other: object) -> bool:
        """Whether it does the same: not with the same `Embedder` and callbacks, but with ones like them."""
        if type(other) is not type(self):
            return False
        return self.embedder.settings == other.embedder.settings and self.model_dump() == other.model_dump()

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
        """The ids of the models that could be asked for. Of a remote engine, the server is asked each time."""
        return self._embedder.available_models()

    @classmethod
    def get_available_models(cls, **fields: Any) -> list[str]:
        """Return the `available_models` of an object with these fields."""
        return cls(**fields).available_models
