r"""Which pages a search is about: conditions on their fields, which are data and never a language to be escaped.

    Field("year") >= 2024
    (Field("team") == "legal") & Field("path").glob("reports/*") & ~Field("draft").exists()

A page that has no value in a field meets no condition on it, and so meets its negation.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from nemovlm.errors import InputError
from nemovlm.index.fields import Fields, Value, check_type, check_value, parse_value, type_of

# Lance's parser takes 49 parentheses within each other; a level here may be two.
_DEEPEST = 20

Operator: TypeAlias = Literal["=", "<", "<=", ">", ">="]


class Filter:
    """A condition on pages. Conditions are joined by `&` and `|`, and turned round by `~`."""

    def __and__(self, other: "Filter") -> "Filter":
        return All((*_parts(self, All), *_parts(other, All)))

    def __or__(self, other: "Filter") -> "Filter":
        return Any_((*_parts(self, Any_), *_parts(other, Any_)))

    def __invert__(self) -> "Filter":
        return Not(self)

    def __bool__(self) -> bool:
        raise TypeError("join filters by & and |, and turn one round by ~; `and`, `or` and `not` cannot do it")


Where: TypeAlias = Filter | Mapping[str, Value | Sequence[Value]]
"""A filter, or {field: value, or values of which it is one}: all of them have to hold."""


@dataclass(frozen=True)
class Comparison(Filter):
    """The value is equal, less or greater. Texts are compared by their characters' numbers."""

    field: str
    operator: Operator
    value: Value


@dataclass(frozen=True)
class OneOf(Filter):
    """The value is one of several; of none, no page is meant."""

    field: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Prefix(Filter):
    """The text begins so."""

    field: str
    text: str


@dataclass(frozen=True)
class Glob(Filter):
    """The text matches a pattern of a shell, as a path: see `Field.glob`."""

    field: str
    pattern: str


@dataclass(frozen=True)
class Exists(Filter):
    """There is a value."""

    field: str


@dataclass(frozen=True)
class All(Filter):
    """Every one of the conditions holds."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class Any_(Filter):  # noqa: N801 - `Any` is typing's
    """One of the conditions holds."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True)
class Not(Filter):
    """The condition does not hold."""

    filter: Filter


class Field:
    """A field of pages, to make filters of.

    Fields are `path` (of the document), `page` (0-based), `label`, `total`, and what `PageIndex.add` was told of
    documents as their metadata. A value has to be of the type that the field holds; a filter is checked when it is
    used.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, value: object) -> Filter:  # type: ignore[override] # it makes a filter
        return Comparison(self.name, "=", check_value(self.name, value))

    def __ne__(self, value: object) -> Filter:  # type: ignore[override]
        return Not(self == value)

    def __lt__(self, value: Value) -> Filter:
        return Comparison(self.name, "<", check_value(self.name, value))

    def __le__(self, value: Value) -> Filter:
        return Comparison(self.name, "<=", check_value(self.name, value))

    def __gt__(self, value: Value) -> Filter:
        return Comparison(self.name, ">", check_value(self.name, value))

    def __ge__(self, value: Value) -> Filter:
        return Comparison(self.name, ">=", check_value(self.name, value))

    __hash__ = None  # type: ignore[assignment] # two of them are not compared, so they are nothing for a set

    def is_in(self, values: Iterable[Value]) -> Filter:
        """The value is one of these."""
        if isinstance(values, str):
            raise InputError(f"is_in takes several values of {self.name!r}; for one, write Field({self.name!r}) == …")
        return OneOf(self.name, tuple(check_value(self.name, value) for value in values))

    def startswith(self, text: str) -> Filter:
        """The text begins so."""
        return Prefix(self.name, _text(self.name, text))

    def glob(self, pattern: str) -> Filter:
        """The text matches a pattern, in which `*` and `?` are any characters but "/", and `**` is any at all.

        A pattern that does not begin at the root matches from any folder on, so `reports/*` is every file in every
        folder `reports`, and `*.pdf` any PDF. `[ab]` is a choice, `[!ab]` its opposite. Case counts.
        """
        return Glob(self.name, _text(self.name, pattern))

    def exists(self) -> Filter:
        """There is a value."""
        return Exists(self.name)


def all_of(wheres: Iterable[Where | None]) -> Filter | None:
    """Return the filter of several, all of which have to hold; None if there are none.

    Raises:
        InputError: One is empty, or is no filter.
    """
    filters = tuple(_filter(where) for where in wheres if where is not None)
    return All(filters) if filters else None


def condition(where: Where, fields: Fields, column: Callable[[str], str]) -> str:
    """Return a filter as the condition that Lance evaluates, in the SQL of DataFusion.

    Names are those of known fields and values are literals of the field's type, so nothing in them is read as SQL.

    Args:
        where: The filter.
        fields: What there is to filter by.
        column: Returns the column of a field.

    Raises:
        InputError: The filter is empty, or names a field that is not there, or a value of another type.
    """

    def place(name: str) -> str:
        return f"`{column(name)}`"

    def text_place(name: str) -> str:
        if (kind := type_of(name, fields)) is not str:
            raise InputError(f"{name!r} holds {kind.__name__}, which has no beginning and matches no pattern")
        return place(name)

    def typed(name: str, value: Value) -> str:
        return literal(check_type(name, value, type_of(name, fields)))

    def sql(part: Filter, depth: int = 0) -> str:  # noqa: PLR0911 - one for each kind
        if depth > _DEEPEST:
            raise InputError(
                f"the filter has more than {_DEEPEST} conditions within each other; for many values use is_in"
            )
        match part:
            case Comparison(name, operator, value):
                return f"{place(name)} {operator} {typed(name, value)}"
            case OneOf(name, values):
                type_of(name, fields)
                inside = ", ".join([typed(name, value) for value in values])
                return f"{place(name)} IN ({inside})" if values else "false"
            case Prefix(name, text):
                return f"starts_with({text_place(name)}, {literal(text)})"
            case Glob(name, pattern):
                return f"regexp_like({text_place(name)}, {literal(_regular_expression(pattern))})"
            case Exists(name):
                type_of(name, fields)
                return f"{place(name)} IS NOT NULL"
            case Not(inner):
                return f"(({sql(inner, depth + 1)}) IS NOT TRUE)"
            case All(filters):
                return "(" + " AND ".join(sql(inner, depth + 1) for inner in filters) + ")"
            case Any_(filters):
                return "(" + " OR ".join(sql(inner, depth + 1) for inner in filters) + ")"
        raise TypeError(f"{type(part).__name__} is no filter of this package")

    return sql(_filter(where))


def literal(value: Value) -> str:
    """Return a value as a literal of SQL."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)


# The longer before those that they begin with.
_OPERATORS: Mapping[str, Callable[[Field, Value], Filter]] = {
    "!=": lambda field, value: field != value,
    "<=": lambda field, value: field <= value,
    ">=": lambda field, value: field >= value,
    "!~": lambda field, value: ~field.glob(str(value)),
    "=": lambda field, value: field == value,
    "<": lambda field, value: field < value,
    ">": lambda field, value: field > value,
    "~": lambda field, value: field.glob(str(value)),
}
_EXPRESSION = re.compile(rf"\s*([\w-]+?)\s*({'|'.join(_OPERATORS)}| in )\s*(.*?)\s*", re.DOTALL)


def parse_filters(texts: Iterable[str], fields: Fields) -> Filter | None:
    """Return the filter of several conditions of the command line, all of which have to hold; None if there are none.

    Raises:
        InputError: One is none: see `parse_filter`.
    """
    return all_of(parse_filter(text, fields) for text in texts)


def parse_filter(text: str, fields: Fields) -> Filter:
    """Return the filter of the command line: `year=2024`, `year>=2020`, `path~reports/*`, `team in legal,sales`.

    Raises:
        InputError: It is none, or names a field that is not there, or a value of another type.
    """
    if not (found := _EXPRESSION.fullmatch(text)):
        raise InputError(
            f"{text!r} is no filter: write FIELD=VALUE, with one of {' '.join(_OPERATORS)} between them (~ is a "
            "pattern), or 'FIELD in VALUE,VALUE'"
        )
    name, operator, said = found.groups()
    wanted = type_of(name, fields)
    if operator == " in ":
        return Field(name).is_in([parse_value(name, value.strip(), wanted) for value in said.split(",")])
    return _OPERATORS[operator](Field(name), parse_value(name, said, str if "~" in operator else wanted))


def _filter(where: Any) -> Filter:
    if isinstance(where, Filter):
        return where
    if not isinstance(where, Mapping):
        raise InputError(
            f"a filter is made of Field(…), or a dict of names and values; this is a {type(where).__name__}"
        )
    if not where:
        raise InputError("the filter is empty: to search all pages, leave it out")
    several = (list, tuple, set, frozenset)
    named = [(Field(name), value) for name, value in where.items()]
    filters = [field.is_in(value) if isinstance(value, several) else field == value for field, value in named]
    return All(tuple(filters))


def _parts(where: Any, kind: type[All] | type[Any_]) -> tuple[Filter, ...]:
    """Return what is joined in a filter, so that joining many makes no deep tree."""
    part = _filter(where)
    return part.filters if isinstance(part, kind) else (part,)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"what {name!r} begins with or matches is a str, not {type(value).__name__}")
    return str(check_value(name, value))


_WILDCARD = re.compile(r"(\*\*/)|(\*\*)|(\*)|(\?)|\[(!?)([^\]/]+)\]|(/)|(.)", re.DOTALL)
_SEPARATOR = r"[/\\]"
_OTHER = r"[^/\\]"


def _regular_expression(pattern: str) -> str:
    """Return the expression for Rust's regex that stands for a pattern of a shell."""

    def translate(found: re.Match[str]) -> str:
        folders, anything, some, one, opposite, choice, separator, character = found.groups()
        if choice:
            inside = re.sub(r"[\\\[\]^&~]", _escaped, choice)
            return f"[{'^' if opposite else ''}{inside}]"
        if character:
            return re.sub(r"[\\.+*?()|\[\]{}^$#&~-]", _escaped, character)
        kinds = {folders: f"(.*{_SEPARATOR})?", anything: ".*", some: f"{_OTHER}*", one: _OTHER, separator: _SEPARATOR}
        return kinds[found[0]]

    rooted = pattern.startswith("/") or re.match(r"[A-Za-z]:", pattern)
    return f"(?s){'^' if rooted else f'(^|{_SEPARATOR})'}{_WILDCARD.sub(translate, pattern)}$"


def _escaped(found: re.Match[str]) -> str:
    return f"\\{found[0]}"
