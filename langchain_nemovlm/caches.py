"""LangChain's byte stores as the cache of an `Embedder`."""

from collections.abc import Iterator, MutableMapping
from typing import Self

from langchain_core.stores import ByteStore


class ByteStoreCache(MutableMapping[str, bytes]):
    """A `LocalFileStore`, `RedisStore`, `InMemoryByteStore` or any other byte store, as a mapping."""

    def __init__(self, store: ByteStore) -> None:
        self._store = store

    def __deepcopy__(self, _: object) -> Self:
        return self  # copied embeddings keep their vectors where the original does

    def __getitem__(self, key: str) -> bytes:
        (value,) = self._store.mget([key])
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: str, value: bytes) -> None:
        self._store.mset([(key, value)])

    def __delitem__(self, key: str) -> None:
        self._store.mdelete([key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.yield_keys())

    def __len__(self) -> int:
        return sum(1 for _ in self)
