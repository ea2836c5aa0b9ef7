"""The remote engine for vLLM's own OpenAI server, whoever started it.

Texts are sent with their prefix, and images in conversations that the server's chat template was seen to make the exact
prompt of. What is too long is cut here: vLLM answers 500 where it is to cut a prompt with an image itself.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter

from PIL import Image

from nemovlm.engines.base import Item, Outcome
from nemovlm.engines.chat_templates import examine, for_all
from nemovlm.engines.fitting import fit, seam
from nemovlm.engines.http import HttpEngine, Reply
from nemovlm.engines.servers import Deadline, RefusedError
from nemovlm.errors import EngineError, InputTooLongError, NemoVLMError
from nemovlm.images import Encoded, load_image, read_image
from nemovlm.models.prompts import prompt
from nemovlm.wire.address import Address
from nemovlm.wire.vllm_server import (
    Entry,
    Tokens,
    conversation_entry,
    count_conversation,
    count_text,
    read_tokens,
    request_body,
    text_entry,
    tokens_entry,
)


@dataclass(frozen=True, slots=True)
class _Long(Entry):
    """An item that may be over the limit, so its tokens are counted before it is sent."""

    item: Item
    image: Encoded | None

    @property
    def group(self) -> str:
        """As for others, and apart from them."""
        return f"long {self.kind}"


class VllmServerEngine(HttpEngine[Entry]):
    """Embeds on vLLM's OpenAI server. See `nemovlm.engines.base.Engine` for the contract."""

    async def start(self) -> None:
        """Find out what each server makes of a conversation. Raises `EngineError` if one cannot be reached."""
        await super().start()
        found = []
        try:
            for address in self._settings.addresses:
                found.append(await examine(partial(self._count, only=address), self._card, address.host))
        except RefusedError as refused:
            problem = replace(refused.problem, hint=await self._hint(refused.problem))
            await self._servers.close()
            raise problem.error("text") from None
        except BaseException:
            await self._servers.close()
            raise
        self._found = for_all(found)

    async def _count(self, body: bytes, *, patient: bool = True, only: Address | None = None) -> Tokens:
        return await self._servers.post(
            lambda: body,
            read_tokens,
            deadline=Deadline(self._settings.deadline, self._settings.clock),
            retries=self._settings.max_retries if patient else 0,
            route=attrgetter("tokenize"),
            only=only,
        )

    def _prepare(self, item: Item) -> Entry:
        prefix, text = prompt(item.role, item.text, image=item.image is not None)
        if item.image is not None and self._found.blind:
            raise EngineError(self._found.blind)
        if (image := self._image(item)) is None:
            entry, most = text_entry(prefix + text), 0
        else:  # the space before the text is the template's
            entry = conversation_entry(self._found.shapes[0], item.role, prefix, image, text[1:])
            most = self._found.image_tokens
        # No token has less than a byte.
        most += len(self._found.prefixes.get(item.role, [])) + len(text.encode())
        if self._found.limit is None or most <= self._limit(item):
            return entry
        return _Long(entry.encoded, entry.modality, entry.kind, item, image)

    def _image(self, item: Item) -> Encoded | None:
        if item.image is not None and not isinstance(item.image, Image.Image):
            # vLLM 0.32 embeds a damaged image as far as it can be read, and says nothing.
            load_image(data := read_image(item.image))
            item = replace(item, image=data)
        return super()._image(item)

    def _limit(self, item: Item) -> int:
        assert self._found.limit  # noqa: S101 - nothing is counted without
        # Of a model that only its server knows, its limit is all there is.
        return min(
            self._found.limit, self._card.max_tokens(item.modality) if self._card.architecture else self._found.limit
        )

    async def _compute(self, parcels: Sequence[Entry]) -> Sequence[Outcome]:
        fitted = (
            await asyncio.gather(*(self._fitted(parcel) for parcel in parcels if isinstance(parcel, _Long))) or parcels
        )
        good = [parcel for parcel in fitted if isinstance(parcel, Entry)]
        answers = iter(await super()._compute(good) if good else ())
        return [next(answers) if isinstance(parcel, Entry) else parcel for parcel in fitted]

    async def _request(self, parcels: Sequence[Entry], deadline: Deadline, retries: int) -> Reply:
        return await self._send(partial(request_body, parcels, self._card.id), len(parcels), deadline, retries)

    async def _fitted(self, parcel: _Long) -> Entry | NemoVLMError:
        """Return `parcel` as it is within the limit, or why there is no such thing."""
        try:
            if parcel.image is None:
                return await self._fitted_text(parcel.item)
            return await self._fitted_conversation(parcel, parcel.image)
        except RefusedError as refused:
            return refused.problem.error(parcel.modality)
        except NemoVLMError as error:
            return error

    async def _fitted_text(self, item: Item) -> Entry:
        prefix, text = prompt(item.role, item.text, image=False)
        ids = (await self._count(count_text(prefix + text, self._card.id, special=True))).ids
        fixed = seam(ids, self._found.prefixes[item.role])
        return tokens_entry([*ids[:fixed], *fit(fixed, ids[fixed:], self._limit(item), item)])

    async def _fitted_conversation(self, parcel: _Long, image: Encoded) -> Entry:
        item = parcel.item
        tokens = await self._count(count_conversation(parcel, self._card.id))
        fixed = len(tokens.ids) - tokens.ids[::-1].index(self._found.image_end)  # no text has that token in it
        kept = len(fit(fixed, tokens.ids[fixed:], self._limit(item), item))
        prefix, text = prompt(item.role, item.text, image=True)
        if fixed + kept < len(tokens.ids):
            text = await self._cut(text, tokens.pieces[fixed:], kept, end=item.truncate == "END")
        return conversation_entry(self._found.shapes[0], item.role, prefix, image, text[1:])

    async def _cut(self, text: str, pieces: Sequence[str], room: int, *, end: bool) -> str:
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
