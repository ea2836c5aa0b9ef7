"""Which conversation a vLLM server makes the exact prompt of, found out by having probes tokenised.

The prompt of an image is made by the server's chat template, which may be any, or none. A wrong one is not refused:
it embeds without the prefix, or with other words around it, and the vectors look like any others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, get_args

from PIL import Image

from nemovlm.engines.servers import RefusedError
from nemovlm.errors import ProtocolError
from nemovlm.images import compact
from nemovlm.inputs import Role
from nemovlm.models.catalogue import ModelCard
from nemovlm.models.prompts import prompt
from nemovlm.wire.vllm_server import SHAPES, Shape, Tokens, conversation_entry, count_conversation, count_text

_ROLES: tuple[Role, ...] = get_args(Role)
_TEXTS = (" A table:\n\n  the  first row \n", "")  # what trims, or joins lines, is not exact
_STRIP = (2, 200)  # pixels of the image that is cut into the most tiles, whatever the most is
_FRAME = 2  # tokens that stand before and behind those of an image
_LOST = 500  # what vLLM answers where a template has dropped the image: that will not pass
_ADVICE = (
    "start it with `nemovlm serve --vllm-server`, or with a --chat-template that knows the roles query and document"
)


class Count(Protocol):
    """Asks a server for tokens. Raises `RefusedError` and `ProtocolError`."""

    async def __call__(self, body: bytes, *, patient: bool = True) -> Tokens:
        """Return what the server answers to `body`; failures are repeated if `patient`."""


@dataclass(frozen=True)
class Found:
    """What was found out of a server, or what holds for all of them."""

    limit: int | None = None
    """The most tokens of a prompt; None where the server counts none."""
    prefixes: dict[Role, list[int]] = field(default_factory=dict)
    """The tokens of each prefix, and what the tokenizer puts before it."""
    shapes: tuple[Shape, ...] = ()
    """The conversations that give the exact prompt."""
    image_tokens: int = 0
    """The most that an image becomes, with those around it."""
    image_end: int = 0
    """The token behind an image."""
    blind: str = ""
    """Why the server gets no images, where it gets none."""


async def examine(count: Count, card: ModelCard, host: str) -> Found:
    """Find out about one server, which `count` asks. Raises `RefusedError` if it fails, or does not have the model."""
    try:
        prefixes = {
            role: await count(count_text(prompt(role, "", image=False).prefix, card.id, special=True))
            for role in _ROLES
        }
        tails = {
            text: (await count(count_text(prompt("passage", text, image=True).text, card.id, special=False))).ids
            for text in _TEXTS
        }
    except (RefusedError, ProtocolError) as error:
        if isinstance(error, RefusedError) and (error.problem.passing or card.id in error.problem.message):
            raise
        return Found(
            blind=f"{host} gets no images, because its chat template cannot be checked without /tokenize, beside /v1 "
            f"({error}); let requests for it through"
        )
    found = Found(
        min(tokens.limit for tokens in prefixes.values()), {role: tokens.ids for role, tokens in prefixes.items()}
    )
    if "image" not in card.modalities:
        return found
    said = ""
    for shape in SHAPES:
        try:
            image = await _image_of(shape, count, card, found.prefixes, tails)
        except RefusedError as refused:
            if refused.problem.passing and refused.problem.status != _LOST:
                raise
            said = said or f", which says: {refused}"
            continue
        if image:
            found = replace(found, shapes=(*found.shapes, shape), image_tokens=len(image), image_end=image[-1])
    if not found.shapes:
        return replace(
            found,
            blind=f"{host} gets no images, because no conversation becomes the exact prompt there{said}; {_ADVICE}",
        )
    if card.tiling and found.image_tokens != (most := card.tiling.max_tokens + _FRAME):
        return replace(
            found,
            blind=f"{host} gets no images, because it makes up to {found.image_tokens} tokens of one, where {card.id} "
            f"has {most}; start it with `nemovlm serve --vllm-server`",
        )
    return found


def for_all(found: Sequence[Found]) -> Found:
    """Return what holds for all servers: the strictest of each."""
    shapes = tuple(shape for shape in found[0].shapes if all(shape in other.shapes for other in found))
    blind = next((other.blind for other in found if other.blind), "")
    if found[0].shapes and not shapes:
        blind = blind or f"the servers get no images, because their chat templates have nothing in common; {_ADVICE}"
    limits = [other.limit for other in found]
    return replace(
        found[0],
        limit=None if None in limits else min(limit for limit in limits if limit is not None),
        shapes=shapes,
        image_tokens=max(other.image_tokens for other in found),
        blind=blind,
    )


async def _image_of(
    shape: Shape, count: Count, card: ModelCard, prefixes: dict[Role, list[int]], tails: dict[str, list[int]]
) -> list[int]:
    """Return the tokens of the probe's image, or none if any of the probes is not what `shape` is for."""
    strip = compact(Image.new("RGB", _STRIP), lambda width, height: (width, height), 1_000_000)
    image: list[int] = []
    for role, head in prefixes.items():
        for text, tail in tails.items():
            prefix = prompt(role, text, image=True).prefix
            entry = conversation_entry(shape, role, prefix, strip, text)
            ids = (await count(count_conversation(entry, card.id), patient=False)).ids
            image = ids[len(head) : len(ids) - len(tail)]
            if [*head, *image, *tail] != ids or len(image) <= _FRAME or len(set(image[1:-1])) > 1:
                return []
    return image
