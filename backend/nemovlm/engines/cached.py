"""A caching wrapper around an engine. The key is a SHA-256 of space, role, truncation, modality, text and image bytes.

A cache is any `MutableMapping[str, bytes]`: a dict, a `shelve.Shelf`, or a class of one's own over files or a server.
It is used from several threads at once.
"""

import asyncio
import hashlib
import logging
from collections.abc import Collection, MutableMapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image

from nemovlm.engines.base import Answer, Outcome, RunningEngine, attempt
from nemovlm.errors import NemoVLMError
from nemovlm.images import load_image, read_image
from nemovlm.inputs import Item

Cache: TypeAlias = MutableMapping[str, bytes]

_log = logging.getLogger("nemovlm")


class CachedEngine:
    """Answers from `cache` what it can, and asks `engine`, which is running, for the rest.

    A cache that fails costs time, never an answer.

    Args:
        engine: What makes the vectors that are missing.
        cache: Where they are kept.
        space: The vector space, which is part of every key.
        dimensions: How many numbers a vector may have; anything else in the cache is no vector of ours.
    """

    def __init__(self, engine: RunningEngine, cache: Cache, space: str, dimensions: Collection[int]) -> None:
        self._engine = engine
        self._cache = cache
        self._space = space
        self._byte_counts = {4 * dimension for dimension in dimensions}

    async def embed(self, batch: Sequence[Item]) -> list[Outcome]:
        """Answer for every item of `batch`, in its order. What comes from the cache counts no tokens."""
        found = await asyncio.to_thread(lambda: [attempt(self._look_up, item) for item in batch])
        missing = [entry for entry in found if isinstance(entry, _Missing)]
        made: list[Outcome] = []
        if missing:
            made = await self._engine.embed([entry.item for entry in missing])
            await asyncio.to_thread(self._keep, missing, made)
        answers = iter(made)
        return [next(answers) if isinstance(entry, _Missing) else entry for entry in found]

    async def close(self) -> None:
        """Close the engine. The cache stays: it is its owner's."""
        await self._engine.close()

    def _look_up(self, item: Item) -> "Answer | _Missing":
        content = b""
        if isinstance(item.image, Image.Image):  # two of them may look the same in tobytes() and yet differ
            item = replace(item, image=(upright := load_image(item.image)))
            content = f"{upright.size}".encode() + upright.tobytes()
        elif item.image is not None:  # read once, for its key and for the engine
            item = replace(item, image=(content := read_image(item.image)))
        key = self._key(item, content)
        try:
            if (kept := self._cache.get(key)) is not None and len(kept) in self._byte_counts:
                return Answer(np.frombuffer(kept, "<f4"), 0)
        except Exception as error:  # whatever a mapping of somebody else's may raise
            _log.warning("the cache cannot be read: %s", type(error).__name__)
        return _Missing(key, item)

    def _keep(self, entries: Sequence["_Missing"], outcomes: Sequence[Outcome]) -> None:
        for (key, _), outcome in zip(entries, outcomes, strict=True):
            if isinstance(outcome, NemoVLMError) or not np.isfinite(outcome.vector).all() or not outcome.vector.any():
                continue
            try:
                self._cache[key] = outcome.vector.astype("<f4").tobytes()
            except Exception as error:
                _log.warning("the cache cannot be written: %s", type(error).__name__)

    def _key(self, item: Item, content: bytes) -> str:
        digest = hashlib.sha256()
        texts = (self._space, item.role, item.truncate, item.modality, item.text)
        for part in (*(text.encode(errors="surrogatepass") for text in texts), content):
            digest.update(len(part).to_bytes(8, "big"))  # so that no two lists of parts run together alike
            digest.update(part)
        return digest.hexdigest()


class _Missing(NamedTuple):
    key: str
    item: Item
