"""The protocol of NVIDIA's embedding NIM, and of what resembles it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from nemovlm.engines.remote.engine import RemoteEngine, ServerRequest
from nemovlm.engines.remote.image_encoding import encode_image
from nemovlm.engines.remote.pool import UpstreamPool
from nemovlm.inputs import Item
from nemovlm.models.card import ModelCard
from nemovlm.models.checkpoint import Checkpoint
from nemovlm.models.families import family_of
from nemovlm.settings import Settings
from nemovlm.wire.nim import Dialect, NimItem, encode_item, request_body
from nemovlm.wire.problems import Problem


class NimEngine(RemoteEngine[NimItem]):
    """Embeds on servers that speak the NIM protocol."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        super().__init__(checkpoint.card, settings, NimProtocol(checkpoint.card, settings))


class NimProtocol:
    """How a NIM is talked to. See `ServerProtocol`."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        self._card = card
        self._settings = settings
        self._escape = family_of(card.architecture).escape_special_tokens
        self._dialect = Dialect()  # what the servers understand, as far as it is known

    async def start(self, _: UpstreamPool) -> None:
        """Nothing has to be known beforehand."""

    def encode(self, item: Item) -> NimItem:
        """Return an item as JSON."""
        settings = self._settings
        image = None if item.image is None else encode_image(item.image, self._card, settings.max_image_bytes)
        return encode_item(item.role, self._escape(item.text), image, item.truncate, settings.joiner)

    async def fit(self, items: Sequence[NimItem]) -> Sequence[NimItem]:
        """Return them as they are: a NIM truncates by itself."""
        return items

    def request(self, items: Sequence[NimItem]) -> ServerRequest:
        """Return a request in the dialect that is known to be understood."""
        dialect, settings = self._dialect, self._settings
        body = partial(
            request_body,
            items,
            self._card.id,
            dialect,
            dimensions=settings.dimensions,
            embedding_type=settings.embedding_type,
        )

        def without(problem: Problem) -> ServerRequest | None:
            field = problem.refused_field
            if field is None or not getattr(dialect, field, False):  # it can be given up once, or not at all
                return None
            self._dialect = replace(self._dialect, **{field: False})
            return self.request(items)

        return ServerRequest(body, without)
