"""Filters: which pages are meant, and never any other, whatever is written in them."""

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemovlm import Field
from nemovlm.errors import InputError
from nemovlm.index.fields import BUILT_IN, check_metadata, parse_metadata
from nemovlm.index.filters import All, Any_, Comparison, Exists, Filter, Not, OneOf, Prefix, condition, parse_filter
from nemovlm.index.schema import column_of
from nemovlm.index.store import PageStore

ODD = [
    "",
    "a",
    "b",
    "a'b",
    "it's",
    "''",
    '"',
    "\\",
    "\\'",
    "%",
    "_",
    "x; DROP",
    "OR true",
    "größe",
    "日本",
    "a\nb",
    "--",
    "`",
]
TYPES = {"year": int, "team": str, "weight": float, "draft": bool, "a-b": str}
FIELDS = {**BUILT_IN, **TYPES}
POOLS: Mapping[str, list[Any]] = {
    "path": [f"/data/{folder}/{name}.pdf" for folder in ("reports", "reports/old", "it's") for name in ("a", "b", "%")],
    "page": [0, 1, 2],
    "label": ["1", "i", "A-1"],
    "total": [3],
    "year": [-1, 0, 2023, 2024, 2**62],
    "team": ODD,
    "weight": [-0.5, 0.0, 1e-9, 2.5, 1e16],
    "draft": [True, False],
    "a-b": ODD[:6],
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[PageStore, list[dict[str, Any]]]:
    """A table of pages with values of every kind, or none, and what is in it."""
    random_ = random.Random(5)
    pages = []
    for number in range(120):
        page = {name: random_.choice(pool) for name, pool in POOLS.items()}
        for name in TYPES:
            if random_.random() < 0.25:
                page[name] = None
        pages.append(page | {"id": str(number)})
    store = PageStore.create(tmp_path_factory.mktemp("filters"), 2, {"space": "x"})
    store.add_fields(TYPES)
    rows = [{column_of(name) if name != "id" else name: value for name, value in page.items()} for page in pages]
    vector = np.array([1, 0], np.float32)
    store.write([row | {"text": "words of a page", "vector": vector} for row in rows[:100]])
    store.optimize()
    store.write([row | {"text": "words of a page", "vector": vector} for row in rows[100:]])  # in no index yet
    return store, pages


def found(store: PageStore, where: Any, **query: Any) -> set[str]:
    query = query or {"vector": np.array([0, 1], np.float32)}
    return {row["id"] for _, row in store.search(500, ["id"], where=where, **query)}


OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def meets(page: Mapping[str, Any], part: Filter) -> bool:  # noqa: PLR0911 - one for each kind
    """Whether a page meets a filter, said once more in Python."""
    match part:
        case Comparison(name, operator, value):
            return page[name] is not None and OPERATORS[operator](page[name], value)
        case OneOf(name, values):
            return page[name] in values
        case Prefix(name, text):
            return page[name] is not None and page[name].startswith(text)
        case Exists(name):
            return page[name] is not None
        case Not(inner):
            return not meets(page, inner)
        case All(filters):
            return all(meets(page, inner) for inner in filters)
        case Any_(filters):
            return any(meets(page, inner) for inner in filters)
    raise TypeError(part)


@st.composite
def simple(draw: st.DrawFn) -> Filter:
    name = draw(st.sampled_from(list(POOLS)))
    kind = FIELDS[name]
    others = {str: st.text(max_size=3), int: st.integers(-9, 9), float: st.floats(-9, 9), bool: st.booleans()}[kind]
    values = st.sampled_from(POOLS[name]) | others
    kinds = [
        values.flatmap(lambda value: st.sampled_from([Comparison(name, operator, value) for operator in OPERATORS])),  # type: ignore[arg-type]
        st.lists(values, max_size=3).map(lambda several: Field(name).is_in(several)),
        st.just(Field(name).exists()),
    ]
    if kind is str:
        kinds.append(values.map(lambda value: Field(name).startswith(value[: len(value) // 2])))
    return draw(st.one_of(*kinds))


FILTERS = st.recursive(
    simple(),
    lambda inner: inner.map(Not) | st.tuples(inner, inner).map(lambda two: two[0] & two[1] | ~two[0] & ~two[1]),
    max_leaves=6,
)


@given(where=FILTERS)
def test_exactly_the_pages_are_found_that_meet_a_filter(
    table: tuple[PageStore, list[dict[str, Any]]], where: Filter
) -> None:
    """By vectors, by words and by both, in indexes or not, whatever the values are."""
    store, pages = table
    expected = {page["id"] for page in pages if meets(page, where)}
    assert found(store, where) == expected
    assert found(store, where, text="words") == expected
    assert found(store, where, text="page", vector=np.array([1, 0], np.float32)) == expected


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("reports/*", ["/x/reports/a.pdf", "/reports/a.pdf"]),
        (
            "reports/**",
            ["/x/reports/a.pdf", "/reports/a.pdf", "/x/reports/2024/b (1).pdf"],
        ),
        ("reports/**/*.pdf", ["/x/reports/a.pdf", "/reports/a.pdf", "/x/reports/2024/b (1).pdf"]),
        ("*.pdf", "all"),
        ("a.pdf", ["/x/reports/a.pdf", "/reports/a.pdf"]),
        ("?.pdf", ["/x/reports/a.pdf", "/reports/a.pdf", "C:\\x\\reports\\c.pdf"]),
        ("/reports/*", ["/reports/a.pdf"]),
        ("[!ab].pdf", ["C:\\x\\reports\\c.pdf"]),
        ("[a-b]*", ["/x/reports/a.pdf", "/reports/a.pdf", "/x/reports/2024/b (1).pdf"]),
        ("* (1).pdf", ["/x/reports/2024/b (1).pdf"]),
        ("REPORTS/*", []),
        ("[", []),
        ("", []),
        ("a'b", []),
        (".pdf", []),
    ],
)
def test_patterns(pattern: str, matches: Any, tmp_path: Path) -> None:
    """`*` stays in a folder and `**` does not; a pattern begins at any folder, unless it begins at the root."""
    paths = ["/x/reports/a.pdf", "/reports/a.pdf", "/x/reports/2024/b (1).pdf", "C:\\x\\reports\\c.pdf"]
    expected = set(paths if matches == "all" else matches)
    if pattern in {"reports/*", "reports/**", "reports/**/*.pdf"}:
        expected.add("C:\\x\\reports\\c.pdf")  # "/" is the separator of any system
    store = PageStore.create(tmp_path, 2, {})
    vector = np.array([1, 0], np.float32)
    store.write([{"id": path, "document": path, "vector": vector} for path in paths])
    assert found(store, Field("path").glob(pattern)) == expected


def test_dicts_and_values() -> None:
    """A dict means that all of it holds, and several values that it is one of them."""

    def sql(where: Any) -> str:
        return condition(where, FIELDS, column_of)

    assert sql({"year": 2024, "team": ["a", "b"]}) == sql((Field("year") == 2024) & Field("team").is_in(["a", "b"]))
    assert sql({"team": []}) == "(false)"
    assert sql(Field("weight") == 2) == sql(Field("weight") == 2.0)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"yaer": 2024}, "no page has a field 'yaer'; did you mean 'year'"),
        (Field("nothing").exists(), "no page has a field 'nothing'"),
        (Field("nothing").is_in([]), "no page has a field 'nothing'"),
        ({"year": "2024"}, "'year' holds int, and '2024' is str"),
        ({"year": True}, "'year' holds int, and True is bool"),
        ({"year": 2024.0}, "'year' holds int, and 2024.0 is float"),
        ({"draft": 1}, "'draft' holds bool, and 1 is int"),
        (Field("year").glob("2*"), "'year' holds int, which has no beginning and matches no pattern"),
        ({}, "the filter is empty"),
        ("year = 2024", "a filter is made of Field(…), or a dict of names and values; this is a str"),
        ([("year", 2024)], "this is a list"),
    ],
    ids=str,
)
def test_what_is_no_filter(where: Any, says: str) -> None:
    """One sentence says what is wrong with it; nothing is searched, and above all not everything."""
    with pytest.raises(InputError) as caught:
        condition(where, FIELDS, column_of)
    assert says in str(caught.value)


def test_values_that_no_field_can_have() -> None:
    """They are refused where a filter is made, and so is a filter joined by `and`."""
    for make in (
        lambda: Field("team") == None,  # noqa: E711
        lambda: Field("year") == 2**63,
        lambda: Field("weight") > math.nan,  # noqa: PLW0177
        lambda: Field("team").is_in("abc"),
        lambda: Field("team").glob(3),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError):
            make()
    with pytest.raises(TypeError, match="join filters by"):
        _ = (Field("year") == 2024) and (Field("team") == "a")


def test_filters_in_each_other(tmp_path: Path) -> None:
    """Many that are joined are no deep tree; a deep tree is refused before Lance's parser would fail."""
    store = PageStore.create(tmp_path, 2, {})
    store.write([{"id": "1", "document": "d", "page": 7, "vector": np.array([1, 0], np.float32)}])
    many = Field("page") == 0
    for page in range(1, 3000):
        many |= Field("page") == page
    assert found(store, many) == {"1"}
    deep = Field("page") == 7
    for _ in range(6):
        deep = ~(deep & (Field("page") == 7)) | (Field("page") == 8)
        found(store, deep)
    with pytest.raises(InputError, match="within each other"):
        found(store, ~(~~deep & (Field("page") == 7)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("year=2024", Field("year") == 2024),
        (" year >= 2020 ", Field("year") >= 2020),
        ("year!=2020", Field("year") != 2020),
        ("weight<1", Field("weight") < 1.0),
        ("draft=true", Field("draft") == True),  # noqa: E712
        ("team==", Field("team") == "="),
        ("team=", Field("team") == ""),
        ("a-b=x = y", Field("a-b") == "x = y"),
        ("team in legal, sales", Field("team").is_in(["legal", "sales"])),
        ("path~reports/*", Field("path").glob("reports/*")),
        ("path!~*.pdf", ~Field("path").glob("*.pdf")),
    ],
)
def test_filters_of_the_command_line(text: str, expected: Filter) -> None:
    """A field, an operator, and a value of the field's type."""
    assert repr(parse_filter(text, FIELDS)) == repr(expected)


@pytest.mark.parametrize(
    "text", ["", "year", "=2024", "year=abc", "year=1_000", "draft=yes", "yaer=2024", "year=1e999"]
)
def test_what_is_no_filter_of_the_command_line(text: str) -> None:
    """It is refused with one sentence."""
    with pytest.raises(InputError):
        parse_filter(text, FIELDS)


def test_metadata_of_the_command_line() -> None:
    """Values are what they look like, unless the field has a type already."""
    assert parse_metadata(["year=2024", "w=1.5", "d=False", "t=x=y"], {}) == {
        "year": 2024,
        "w": 1.5,
        "d": False,
        "t": "x=y",
    }
    assert parse_metadata(["year=2024"], {"year": str}) == {"year": "2024"}
    for bad in ("year", "=1", "path=x", "ye ar=1", "year=nan"):
        with pytest.raises(InputError):
            parse_metadata([bad], {"year": float})


def test_metadata_that_can_be_kept() -> None:
    """Names are words; values are text, numbers and truth values; None is nothing."""
    assert check_metadata({"größe": 1, "a-b": None, "t": np.float64(2)}) == {"größe": 1, "t": 2.0}
    for bad in (
        {"1a": 1},
        {"a b": 1},
        {"a`b": 1},
        {"": 1},
        {3: 1},
        {"page": 1},
        {"a": [1]},
        {"a": float("inf")},
        [("a", 1)],
    ):
        with pytest.raises(InputError):
            check_metadata(bad)  # type: ignore[arg-type]
