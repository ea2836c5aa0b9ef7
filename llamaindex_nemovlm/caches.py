"""LlamaIndex's key-value stores as the cache of an `Embedder`."""

import base64
from collections.abc import Iterator, MutableMapping
from typing import Self

from llama_index.core.storage.kvstore.types import BaseKVStore

_COLLECTION = "nemovlm"


class KVStoreCache(MutableMapping[str, bytes]):
    """A `SimpleKVStore`, `RedisKVStore` or any other key-value store, as a mapping."""

    def __init__(self, store: BaseKVStore) -> None:
        self._store = store

    def __deepcopy__(self, _: object) -> Self:
        return self  # a copied embedding keeps its vectors where the original does

    def __getitem__(self, key: str) -> bytes:
        value = self._store.get(key, collection=_COLLECTION)
        if value is None:
            raise KeyError(key)
        return base64.b64decode(value["vector"])

    def __setitem__(self, key: str, value: bytes) -> None:
        self._store.put(key, {"vector": base64.b64encode(value).decode("ascii")}, collection=_COLLECTION)

    def __delitem__(self, key: str) -> None:
        if not self._store.delete(key, collection=_COLLECTION):
            raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.get_all(collection=_COLLECTION))

    def __len__(self) -> int:
        return len(self._store.get_all(collection=_COLLECTION))
