"""What the embedding classes for frameworks have in common: the knobs as fields, over one `Embedder`."""

from typing import Any

from pydantic import PrivateAttr

from nemovlm.embedder import Embedder
from nemovlm.settings import Knobs, peers_names


class Adapter(Knobs):
    """The knobs of an `Embedder` as fields, what is None being read from `NEMOVLM_*`, and the `Embedder` itself.

    `nvidia_base_url`, `nvidia_api_key`, `default_headers`, `verify_ssl` and `async_http_client` are taken as well, as
    NVIDIA's own clients call them.
    """

    _embedder: Embedder = PrivateAttr()

    def __init__(self, **fields: Any) -> None:
        super().__init__(**peers_names(fields))
        self._embedder = Embedder(**self.arguments())  # checks the settings; loads nothing

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
