"""One item as it travels: a piece of JSON, made once, and put into the body of a request as it is."""

import base64
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from nemovlm.images import Encoded
from nemovlm.inputs import Modality

_COMMA = b", "


@dataclass(frozen=True, slots=True)
class EncodedItem(ABC):
    """What the protocols have in common; each adds what its requests have once."""

    encoded: bytes
    """A fragment of JSON, in UTF-8."""
    modality: Modality
    """What the item consists of."""

    @property
    @abstractmethod
    def group(self) -> Hashable:
        """What a request has once: only items that agree in it can share one."""

    @property
    def size(self) -> int:
        """How many bytes it adds to a request."""
        return len(self.encoded) + len(_COMMA)


def join(items: Iterable[EncodedItem]) -> bytes:
    """Return the items as they stand in a JSON array, without its brackets."""
    return _COMMA.join([item.encoded for item in items])


def data_url_parts(image: Encoded) -> tuple[bytes, ...]:
    """Return the parts of an image's `data:` URL, to be joined with those of a JSON string: so it is copied once.

    Base64 needs no escapes: to let a JSON encoder look for them in a page would cost more than all else here.
    """
    return b"data:", image.mime_type.encode(), b";base64,", base64.b64encode(image.data)
