"""The protocol of vLLM's own OpenAI server, whoever started it.

Texts are sent with their prefix, and images in conversations that the server's chat template was seen to make the exact
prompt of. What is too long is truncated here: vLLM answers 500 where it is to truncate a prompt with an image itself.
"""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter

from PIL import Image

from nemovlm.engines.remote.capabilities import common_capabilities, examine
from nemovlm.engines.remote.discovery import hint_at_models
from nemovlm.engines.remote.engine import RemoteEngine, ServerRequest
from nemovlm.engines.remote.image_encoding import encode_image
from nemovlm.engines.remote.pool import UpstreamPool
from nemovlm.engines.remote.retry import Deadline, RequestFailedError
from nemovlm.errors import EngineError, InputTooLongError, NemoVLMError
from nemovlm.images import Encoded, ImageSource, read_image, view_image
from nemovlm.inputs import Item
from nemovlm.models.card import ModelCard
from nemovlm.models.checkpoint import Checkpoint
from nemovlm.models.families import family_of
from nemovlm.models.truncation import common_prefix_length, truncate_tokens
from nemovlm.settings import Settings
from nemovlm.wire.address import Address
from nemovlm.wire.vllm_server import (
    Tokens,
    VllmItem,
    count_conversation,
    count_text,
    encode_conversation,
    encode_text,
    encode_tokens,
    read_tokens,
    request_body,
)


class VllmServerEngine(RemoteEngine[VllmItem]):
    """Embeds on vLLM's OpenAI servers."""

    def __init__(self, checkpoint: Checkpoint, settings: Settings) -> None:
        super().__init__(checkpoint.card, settings, VllmServerProtocol(checkpoint.card, settings))


@dataclass(frozen=True, slots=True)
class _LongItem(VllmItem):
    """An item that may be over the limit, so its tokens are counted before it is sent."""

    item: Item
    image: Encoded | None

    @property
    def group(self) -> str:
        """As for others, and apart from them."""
        return f"long {self.kind}"


class VllmServerProtocol:
    """How a vLLM server is talked to. See `ServerProtocol`."""

    def __init__(self, card: ModelCard, settings: Settings) -> None:
        self._card = card
        self._settings = settings
        self._prompt = family_of(card.architecture).prompt

    async def start(self, pool: UpstreamPool) -> None:
        """Find out what each server makes of a conversation.

        Raises:
            EngineError: One cannot be reached, or lacks the model.
        """
        self._pool = pool
        found = []
        try:
            for address in self._settings.addresses:
                found.append(await examine(partial(self._count, only=address), self._card, address.host))
        except RequestFailedError as failed:
            hint = await hint_at_models(pool, self._settings, self._card.id, failed.problem)
            raise replace(failed.problem, hint=hint).error("text") from None
        self._capabilities = common_capabilities(found)

    async def check(self) -> None:
        """Nothing remains to be found out."""

    def encode(self, item: Item) -> VllmItem:
        """Return an item as JSON, marked if it may be too long."""
        can = self._capabilities
        prefix, text, _ = self._prompt(item.role, item.text, image=item.image is not None)
        if item.image is None:
            image, encoded, most = None, encode_text(prefix + text), 0
        else:
            if can.images_disabled_reason:
                raise EngineError(can.images_disabled_reason)
            image = self._encode_image(item.image)
            encoded = encode_conversation(can.message_layouts[0], item.role, prefix, image, text[1:])
            most = can.image_tokens  # the space before the text is the template's
        # No token has less than a byte.
        most += len(can.prefixes.get(item.role, [])) + len(text.encode())
        if can.limit is None or most <= self._limit(item):
            return encoded
        return _LongItem(encoded.encoded, encoded.modality, encoded.kind, item, image)

    async def fit(self, items: Sequence[VllmItem]) -> Sequence[VllmItem | NemoVLMError]:
        """Return items within the limit; all of a group are marked, or none is."""
        if not isinstance(items[0], _LongItem):
            return items
        return await asyncio.gather(*(self._fitted(item) for item in items if isinstance(item, _LongItem)))

    def request(self, items: Sequence[VllmItem], without: Collection[str] = ()) -> ServerRequest:
        """Return the request for items of one kind. It has no field that a server may refuse."""
        return ServerRequest(partial(request_body, items, self._card.id))

    def give_up(self, fields: Collection[str]) -> None:
        """Nothing can be left out."""

    def _encode_image(self, image: ImageSource) -> Encoded:
        if not isinstance(image, Image.Image):
            # vLLM 0.32 embeds a damaged image as far as it can be read, and says nothing.
            image = read_image(image)
            view_image(image)
        return encode_image(image, self._card, self._settings.max_image_bytes)

    async def _count(self, body: bytes, *, patient: bool = True, only: Address | None = None) -> Tokens:
        return await self._pool.post(
            lambda: body,
            read_tokens,
            deadline=Deadline(self._settings.deadline, self._settings.clock),
            retries=self._settings.max_retries if patient else 0,
            route=attrgetter("tokenize"),
            only=only,
        )

    def _limit(self, item: Item) -> int:
        limit = self._capabilities.limit
        assert limit  # noqa: S101 - nothing is counted without
        # Of a model that only its server knows, its limit is all there is.
        return min(limit, self._card.max_tokens(item.modality)) if self._card.architecture else limit

    async def _fitted(self, long: _LongItem) -> VllmItem | NemoVLMError:
        """Return an item as it is within the limit, or why there is no such thing."""
        try:
            if long.image is None:
                return await self._fitted_text(long.item)
            return await self._fitted_conversation(long, long.image)
        except RequestFailedError as failed:
            return failed.problem.error(long.modality)
        except NemoVLMError as error:
            return error

    async def _fitted_text(self, item: Item) -> VllmItem:
        prefix, text, _ = self._prompt(item.role, item.text, image=False)
        ids = (await self._count(count_text(prefix + text, self._card.id, special=True))).ids
        fixed = common_prefix_length(ids, self._capabilities.prefixes[item.role])
        return encode_tokens([*ids[:fixed], *truncate_tokens(fixed, ids[fixed:], self._limit(item), item)])

    async def _fitted_conversation(self, long: _LongItem, image: Encoded) -> VllmItem:
        item, can = long.item, self._capabilities
        tokens = await self._count(count_conversation(long, self._card.id))
        fixed = len(tokens.ids) - tokens.ids[::-1].index(can.image_end)  # no text has that token in it
        kept = len(truncate_tokens(fixed, tokens.ids[fixed:], self._limit(item), item))
        prefix, text, _ = self._prompt(item.role, item.text, image=True)
        if fixed + kept < len(tokens.ids):
            text = await self._truncated(text, tokens.pieces[fixed:], kept, end=item.truncate == "END")
        return encode_conversation(can.message_layouts[0], item.role, prefix, image, text[1:])

    async def _truncated(self, text: str, pieces: Sequence[str], room: int, *, end: bool) -> str:
        """Return what `room` tokens hold of one end of `text`, with the space before it.

        A cut within a character moves to where one begins, and one within a word, where the space makes it longer, to
        where it fits.
        """
        whole = text.encode()
        if sum(map(len, pieces)) != len(whole):
            raise InputTooLongError(
                "the text with its image is over the limit, and the server's tokenizer, which is no byte-level one, "
                "does not say where to cut it; shorten the text"
            )
        for count in range(room, 0, -1):
            size = sum(map(len, pieces[:count] if end else pieces[-count:]))
            try:
                part = (whole[:size] if end else whole[-size:]).decode()
            except UnicodeDecodeError:
                continue
            part = f" {part.removeprefix(' ')}"
            if len((await self._count(count_text(part, self._card.id, special=False))).ids) <= room:
                return part
        return " "
