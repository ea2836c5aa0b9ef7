"""The fields of a page that a search can be narrowed by: those of every index, and what `add` was told of documents."""

import math
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from nemovlm.errors import InputError
from nemovlm.inputs import replace_surrogates

Value: TypeAlias = str | int | float | bool
"""What a field holds; all values of one field are of one type."""

Fields: TypeAlias = Mapping[str, type]
"""{name of a field: type of its values}."""

BUILT_IN: Fields = {"path": str, "page": int, "label": str, "total": int}
"""Those of every index: the path of the document, the page (0-based), what the document calls it, and its pages."""

_NAME = re.compile(r"[^\W\d][\w-]{0,63}")
_LONGEST = 2**63


def check_metadata(metadata: Mapping[str, Any]) -> dict[str, Value]:
    """Return what is said of a document, without what is None.

    Raises:
        InputError: A name or a value cannot be kept.
    """
    if not isinstance(metadata, Mapping):
        raise InputError(f"metadata are a dict of names and values, not {type(metadata).__name__}")
    checked = {}
    for name, value in metadata.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(f"metadata {name!r}: a name is letters, digits, '-' and '_', 64 at most, a letter first")
        if name in BUILT_IN:
            raise InputError(f"metadata {name!r}: every page has a field of this name already; take another")
        if value is not None:
            checked[name] = check_value(name, value)
    return checked


def check_type(name: str, value: Value, wanted: type) -> Value:
    """Return a value as a field holds it: a whole number where it holds floats becomes one.

    Raises:
        InputError: It is of another type.
    """
    if type(value) is wanted:
        return value
    if wanted is float and type(value) is int:
        return float(value)
    raise InputError(f"{name!r} holds {wanted.__name__}, and {value!r} is {type(value).__name__}")


def type_of(name: str, fields: Fields) -> type:
    """Return the type of a field.

    Raises:
        InputError: There is no such field; the message names the nearest.
    """
    if name in fields:
        return fields[name]
    near = get_close_matches(name, fields, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"no page has a field {name!r}; {meant}There are: {', '.join(fields)}")


def parse_value(name: str, text: str, wanted: type | None = None) -> Value:
    """Return a value from the command line: as `wanted`, or else a whole number, a float, a truth value or a text.

    Raises:
        InputError: It is not of the type that is wanted.
    """
    if wanted is None:
        kinds: tuple[type, ...] = (int, float, bool, str)
        wanted = next(kind for kind in kinds if _reads_as(text, kind))
    elif not _reads_as(text, wanted):
        raise InputError(f"{name!r} holds {wanted.__name__}, and {text!r} is none")
    value: Value = text.lower() == "true" if wanted is bool else wanted(text)
    return check_value(name, value)


def parse_metadata(texts: Iterable[str], fields: Fields) -> dict[str, Value]:
    """Return metadata from the command line: `year=2024`, of the type of the field, if there is one of that name.

    Raises:
        InputError: One of them is none.
    """
    metadata = {}
    for text in texts:
        name, equals, said = (part.strip() for part in text.partition("="))
        if not equals:
            raise InputError(f"{text!r} says nothing of a document: write NAME=VALUE")
        metadata[name] = parse_value(name, said, fields.get(name))
    return check_metadata(metadata)


def _reads_as(text: str, kind: type) -> bool:
    if kind is bool:
        return text.lower() in {"true", "false"}
    try:
        kind(text)
    except ValueError:
        return False
    return kind is str or (not text[:1].isspace() and "_" not in text)


def check_value(name: str, value: Any) -> Value:
    """Return a value of a field as one of the types that there are.

    Raises:
        InputError: It is of none of them.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return replace_surrogates(str(value))
    if isinstance(value, int) and -_LONGEST <= value < _LONGEST:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    what = repr(value) if isinstance(value, (int, float)) else type(value).__name__
    raise InputError(
        f"{what} cannot be a value of {name!r}: it takes str, int (64 bits), float (finite) and bool, and dates as "
        "text, such as 2026-11-27, which sorts rightly"
    )
