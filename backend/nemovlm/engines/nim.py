"""The remote engine for servers that speak the protocol of NVIDIA's embedding NIM, and for what resembles them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from nemovlm.engines.base import Item
from nemovlm.engines.http import HttpEngine, Reply
from nemovlm.engines.servers import Deadline, RefusedError
from nemovlm.models.checkpoint import Checkpoint
from nemovlm.models.prompts import neutralise
from nemovlm.settings import Settings
from nemovlm.wire.nim import Dialect, Entry, entry, request_body


class NimEngine(HttpEngine[Entry]):
    """Embeds on a server that speaks the NIM protocol. See `nemovlm.engines.base.Engine` for the contract."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        super().__init__(checkpoint, settings)
        self._dialect = Dialect()

    def _prepare(self, item: Item) -> Entry:
        return entry(item.role, neutralise(item.text), self._image(item), item.truncate, self._settings.joiner)

    async def _request(self, parcels: Sequence[Entry], deadline: Deadline, retries: int) -> Reply:
        """Send one request, giving up what the server does not understand of the protocol."""
        while True:
            dialect = self._dialect
            body = partial(
                request_body,
                parcels,
                self._card.id,
                dialect,
                dimensions=self._settings.dimensions,
                embedding_type=self._settings.embedding_type,
            )
            try:
                return await self._send(body, len(parcels), deadline, retries)
            except RefusedError as refused:
                field = refused.problem.refused_field
                if field is None or not getattr(dialect, field, False):  # it can be given up once, or not at all
                    raise
                self._dialect = replace(self._dialect, **{field: False})
