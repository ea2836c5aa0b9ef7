"""The protocol of NVIDIA's embedding NIM, and of what resembles it."""

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from functools import partial

from nemovlm.engines.base import OtherServerError
from nemovlm.engines.remote.discovery import VLLM, recognize
from nemovlm.engines.remote.engine import RemoteEngine, ServerRequest
from nemovlm.engines.remote.image_encoding import encode_image
from nemovlm.engines.remote.pool import UpstreamPool
from nemovlm.inputs import Item
from nemovlm.models.card import ModelCard
from nemovlm.models.checkpoint import Checkpoint
from nemovlm.models.families import family_of
from nemovlm.settings import Settings
from nemovlm.wire.address import Address
from nemovlm.wire.nim import Dialect, NimItem, encode_item, request_body

_log = logging.getLogger("nemovlm")


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
        self._unsure = [address for address in settings.addresses if not address.hosted]  # which may be vLLM's
        self._checking = asyncio.Lock()
        # What the servers understand of what has to be said, as far as it is known.
        self._dialect = Dialect(
            dimensions=settings.dimensions is not None, embedding_type=settings.embedding_type != "float"
        )

    async def start(self, pool: UpstreamPool) -> None:
        """Find out whether the servers are what they are taken for.

        Raises:
            OtherServerError: One is vLLM's.
        """
        self._pool = pool
        await self._look(self._unsure)

    async def check(self) -> None:
        """Ask those servers once more that were not there when the engine started, and have replied since.

        Raises:
            OtherServerError: One is vLLM's.
        """
        async with self._checking:
            if here := [address for address in self._unsure if address in self._pool.serving]:
                await self._look(here)
                self._unsure = [address for address in self._unsure if address not in here]

    async def _look(self, addresses: Sequence[Address]) -> None:
        products = await asyncio.gather(*(recognize(self._pool, address) for address in addresses))
        told = {address: product for address, product in zip(addresses, products, strict=True) if product is not None}
        self._unsure = [address for address in self._unsure if told.get(address, VLLM) == VLLM]
        if vllm := [address.host for address, product in told.items() if product == VLLM]:
            others = [address.host for address in self._settings.addresses if address not in self._unsure]
            self._refuse(", ".join(vllm), ", ".join(others))
        for address, product in told.items():
            if product:
                _log.warning(
                    "%s is %s, which takes no notice of input_type: queries and passages get no prompts there, unless "
                    "its model's template has them",
                    address.host,
                    product,
                )

    def _refuse(self, vllm: str, others: str) -> None:
        if others:
            raise OtherServerError(
                f"{vllm} is {VLLM} and {others} is not: they are asked in different ways, so make an Embedder for "
                "each, that of the first with engine='vllm-server'"
            )
        raise OtherServerError(
            f"{vllm} is {VLLM}, which takes no notice of input_type and embeds without prompts: pass "
            "engine='vllm-server'",
            engine="vllm-server",
            reason=f"{vllm} says that it is {VLLM}",
        )

    def encode(self, item: Item) -> NimItem:
        """Return an item as JSON."""
        settings = self._settings
        image = None if item.image is None else encode_image(item.image, self._card, settings.max_image_bytes)
        return encode_item(item.role, self._escape(item.text), image, item.truncate, settings.joiner)

    async def fit(self, items: Sequence[NimItem]) -> Sequence[NimItem]:
        """Return them as they are: a NIM truncates by itself."""
        return items

    def request(self, items: Sequence[NimItem], without: Collection[str] = ()) -> ServerRequest:
        """Return a request in the dialect that is known to be understood."""
        dialect, settings = replace(self._dialect, **dict.fromkeys(without, False)), self._settings
        if mistakable := any(item.modality == "text" and b"data:image" in item.encoded for item in items):
            dialect = replace(dialect, modality=True)  # a server that guesses would take the text for an image
        body = partial(
            request_body,
            items,
            self._card.id,
            dialect,
            dimensions=settings.dimensions,
            embedding_type=settings.embedding_type,
        )
        optional = asdict(dialect) | ({"modality": False} if mistakable else {})
        return ServerRequest(body, [name for name, sent in optional.items() if sent])

    def give_up(self, fields: Collection[str]) -> None:
        """Leave optional fields out from now on."""
        self._dialect = replace(self._dialect, **dict.fromkeys(fields, False))
