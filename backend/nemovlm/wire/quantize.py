"""Vectors in fewer bytes, as the NIM's `embedding_type` names them.

What the names mean is the convention of the field (sentence-transformers, `quantize_embeddings`): `ubinary` packs the
signs of the components into bytes, eight to one, the first in the highest bit; `binary` is the same less 128, as int8.
NVIDIA's reference says no more than the names, so the scale of `int8` is chosen here: each vector by itself is
scaled so that its largest component is 127, which cosine similarity does not see. `uint8` is the same plus 128.
"""

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

EmbeddingType: TypeAlias = Literal["float", "int8", "uint8", "binary", "ubinary"]

DTYPES: dict[EmbeddingType, np.dtype[np.generic]] = {
    "float": np.dtype("<f4"),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
    "binary": np.dtype(np.int8),
    "ubinary": np.dtype(np.uint8),
}
"""How the numbers of one vector are laid out, in base64 too."""


def quantize(vector: NDArray[np.float32], kind: EmbeddingType) -> NDArray[np.generic]:
    """Return a vector (d,) as `kind`: (d,) numbers of `DTYPES[kind]`, or (ceil(d / 8),) where bits are packed."""
    if kind == "float":
        return vector.astype(DTYPES[kind])
    if kind in {"binary", "ubinary"}:
        numbers = np.packbits(vector > 0).astype(np.float32)
        zero = 128 if kind == "binary" else 0
    else:
        numbers = np.rint(vector * (127 / np.abs(vector).max()))
        zero = -128 if kind == "uint8" else 0
    return (numbers - zero).astype(DTYPES[kind])


def dequantize(numbers: NDArray[np.generic], kind: EmbeddingType) -> NDArray[np.float32]:
    """Return what `quantize` made of a vector as a vector (d,) of any length; d is a multiple of 8 for packed bits."""
    wide = numbers.astype(np.float32)
    if kind in {"binary", "ubinary"}:
        bits = np.unpackbits((wide + (128 if kind == "binary" else 0)).astype(np.uint8))
        return bits.astype(np.float32) * 2 - 1
    return wide - 128 if kind == "uint8" else wide
