"""Which conversation a vLLM server makes the exact prompt of, found out by having probes tokenized.

The prompt of an image is made by the server's chat template, which may be any, or none. A wrong one is not refused:
it embeds without the prefix, or with other words around it, and the vectors look like any others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, get_args

from PIL import Image

from nemovlm.engines.remote.retry import RequestFailedError
from nemovlm.errors import ProtocolError
from nemovlm.images import compact
from nemovlm.inputs import Role
from nemovlm.models.card import ModelCard
from nemovlm.models.families import family_of
from nemovlm.wire.vllm_server import (
    MESSAGE_LAYOUTS,
    MessageLayout,
    Tokens,
    count_conversation,
    count_text,
    encode_conversation,
)

_ROLES: tuple[Role, ...] = get_args(Role)
_TEXTS = (" A table:\n\n  the  first row \n", "")  # what trims, or joins lines, is not exact
_STRIP = (2, 200)  # pixels of the image that is cut into the most tiles, whatever the most is
_IMAGE_DELIMITERS = 2  # tokens: one before and one after those of an image
_IMAGE_DROPPED = 500  # the status with which vLLM answers where a template has dropped the image: no retry helps
_ADVICE = (
    "start it with `nemovlm serve --vllm-server`, or with a --chat-template that knows the roles query and document"
)


class Count(Protocol):
    """Asks a server for tokens."""

    async def __call__(self, body: bytes, *, patient: bool = True) -> Tokens:
        """Return what the server answers to `body`; failures are retried if `patient`.

        Raises:
            RequestFailedError: The server refuses, or cannot be reached.
            ProtocolError: The reply is no list of tokens.
        """


@dataclass(frozen=True)
class ServerCapabilities:
    """What was found out of a server, or what holds for all of them."""

    limit: int | None = None
    """The most tokens of a prompt; None where the server counts none."""
    prefixes: dict[Role, list[int]] = field(default_factory=dict)
    """The token ids of each prefix, with what the tokenizer puts before it."""
    message_layouts: tuple[MessageLayout, ...] = ()
    """The conversations that give the exact prompt."""
    image_tokens: int = 0
    """The most tokens that an image becomes, its delimiters included."""
    image_end: int = 0
    """The id of the token after an image."""
    images_disabled_reason: str = ""
    """Why the server gets no images, where it gets none."""


async def examine(count: Count, card: ModelCard, host: str) -> ServerCapabilities:
    """Find out about one server, which `count` asks.

    Raises:
        RequestFailedError: The server fails, or does not have the model.
    """
    prompt = family_of(card.architecture).prompt
    try:
        prefixes = {
            role: await count(count_text(prompt(role, "", image=False).prefix, card.id, special=True))
            for role in _ROLES
        }
        tails = {
            text: (await count(count_text(prompt("passage", text, image=True).text, card.id, special=False))).ids
            for text in _TEXTS
        }
    except (RequestFailedError, ProtocolError) as error:
        if isinstance(error, RequestFailedError) and (error.problem.retryable or card.id in error.problem.message):
            raise
        return ServerCapabilities(
            images_disabled_reason=f"{host} gets no images, because its chat template cannot be checked without "
            f"/tokenize, beside /v1 ({error}); let requests for it through"
        )
    found = ServerCapabilities(
        min(tokens.limit for tokens in prefixes.values()), {role: tokens.ids for role, tokens in prefixes.items()}
    )
    if not card.takes_images:
        return found
    said = ""
    for layout in MESSAGE_LAYOUTS:
        try:
            image = await _image_ids(layout, count, card, found.prefixes, tails)
        except RequestFailedError as refused:
            if refused.problem.retryable and refused.problem.status != _IMAGE_DROPPED:
                raise
            said = said or f", which says: {refused}"
            continue
        if image:
            layouts = (*found.message_layouts, layout)
            found = replace(found, message_layouts=layouts, image_tokens=len(image), image_end=image[-1])
    if not found.message_layouts:
        reason = f"{host} gets no images, because no conversation becomes the exact prompt there{said}; {_ADVICE}"
        return replace(found, images_disabled_reason=reason)
    if card.vision and found.image_tokens != (most := card.vision.max_tokens + _IMAGE_DELIMITERS):
        reason = (
            f"{host} gets no images, because it makes up to {found.image_tokens} tokens of one, where {card.id} "
            f"has {most}; start it with `nemovlm serve --vllm-server`"
        )
        return replace(found, images_disabled_reason=reason)
    return found


def common_capabilities(found: Sequence[ServerCapabilities]) -> ServerCapabilities:
    """Return what holds for all servers: the strictest of each."""
    first, *others = found
    layouts = tuple(layout for layout in first.message_layouts if all(layout in o.message_layouts for o in others))
    reason = next((server.images_disabled_reason for server in found if server.images_disabled_reason), "")
    if first.message_layouts and not layouts:
        reason = reason or f"the servers get no images, because their chat templates have nothing in common; {_ADVICE}"
    limits = [server.limit for server in found]
    return replace(
        first,
        limit=None if None in limits else min(limit for limit in limits if limit is not None),
        message_layouts=layouts,
        image_tokens=max(server.image_tokens for server in found),
        images_disabled_reason=reason,
    )


async def _image_ids(
    layout: MessageLayout, count: Count, card: ModelCard, prefixes: dict[Role, list[int]], tails: dict[str, list[int]]
) -> list[int]:
    """Return the token ids of the probe's image, or none if any of the probes is not what `layout` is for."""
    prompt = family_of(card.architecture).prompt
    strip = compact(Image.new("RGB", _STRIP), lambda width, height: (width, height), 1_000_000)
    image: list[int] = []
    for role, head in prefixes.items():
        for text, tail in tails.items():
            prefix = prompt(role, text, image=True).prefix
            item = encode_conversation(layout, role, prefix, strip, text)
            ids = (await count(count_conversation(item, card.id), patient=False)).ids
            image = ids[len(head) : len(ids) - len(tail)]
            if [*head, *image, *tail] != ids or len(image) <= _IMAGE_DELIMITERS or len(set(image[1:-1])) > 1:
                return []
    return image
