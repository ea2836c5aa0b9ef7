"""How the vectors of a table are kept, and read again."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from nemovlm.choices import VectorType
from nemovlm.inputs import Vector, Vectors

_TYPES: Mapping[VectorType, Any] = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}
_INT8_MAX = 127


def column_type(dimension: int, vectors: VectorType) -> Any:
    """Return the type of a column of vectors (dimension,)."""
    return pa.list_(_TYPES[vectors], dimension)


def dimension_of(table_schema: Any) -> int:
    """Return the length of the vectors in a table."""
    dimension: int = table_schema.field("vector").type.list_size
    return dimension


def vector_type(table_schema: Any) -> VectorType:
    """Return how a table keeps its vectors."""
    value_type = table_schema.field("vector").type.value_type
    return next(name for name, kind in _TYPES.items() if kind == value_type)


def kept(vector: Vector, vectors: VectorType) -> Any:
    """Return a vector (d,) as it is kept: as int8, its largest component becomes 127 or -127."""
    numbers = np.asarray(vector, np.float32)
    if vectors == "int8":
        return np.round(numbers * (_INT8_MAX / np.abs(numbers).max())).astype(np.int8)
    return numbers.astype(vectors)


def vectors_in(column: Any) -> Vectors:
    """Return the vectors (n, d) float32 in a column, of unit length as far as their type can say."""
    dimension, whole = column.type.list_size, pa.types.is_integer(column.type.value_type)
    numbers = np.asarray(column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension), np.float32)
    return numbers / np.linalg.norm(numbers, axis=1, keepdims=True) if whole else numbers
