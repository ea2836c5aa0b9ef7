"""The models that are known: the rows of all families, and which of them is taken where nobody chose."""

from difflib import get_close_matches

from nemovlm.models.card import ModelCard
from nemovlm.models.families import FAMILIES
from nemovlm.models.llama_nemotron.cards import EMBED_VL_1B_V2, POCKET

__all__ = ["CATALOGUE", "DEFAULT_MODEL", "POCKET", "find_card", "nearest"]

DEFAULT_MODEL = EMBED_VL_1B_V2
"""The model to take where there is a GPU or a server for it, and nobody chose."""

CATALOGUE: tuple[ModelCard, ...] = tuple(card for family in FAMILIES for card in family.cards)


def find_card(model: str) -> ModelCard | None:
    """Return the row of a model id or one of its aliases."""
    return next((card for card in CATALOGUE if model == card.id or model in card.aliases), None)


def nearest(model: str) -> str | None:
    """Return the known id that `model` is probably a misspelling of."""
    ids = {name.lower(): card.id for card in CATALOGUE for name in (card.id, *card.aliases)}
    short = {name.partition("/")[2]: known for name, known in ids.items()}
    known = ids | short
    match = get_close_matches(model.lower(), known, n=1, cutoff=0.4)
    return known[match[0]] if match else None
