"""LlamaIndex's filters as those of a `PageIndex`."""

from collections.abc import Callable, Mapping
from typing import Any

from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from nemovlm.errors import InputError
from nemovlm.index import Field, Filter
from nemovlm.index.fields import Fields
from nemovlm.index.filters import All, Any_

_OPERATORS: Mapping[FilterOperator, Callable[[Field, Any], Filter]] = {
    FilterOperator.EQ: lambda field, value: field == value,
    FilterOperator.NE: lambda field, value: field != value,
    FilterOperator.LT: lambda field, value: field < value,
    FilterOperator.LTE: lambda field, value: field <= value,
    FilterOperator.GT: lambda field, value: field > value,
    FilterOperator.GTE: lambda field, value: field >= value,
    FilterOperator.IN: lambda field, value: field.is_in(value),
    FilterOperator.NIN: lambda field, value: ~field.is_in(value),
}
_OF_SEVERAL = {FilterOperator.IN, FilterOperator.NIN}
# What nodes call the fields that every page of an index has.
_NAMES = {"file_path": "path", "page_label": "label", "total_pages": "total"}


def page_filter(filters: MetadataFilters, fields: Fields) -> Filter:
    """Return the filter that means the same pages; keys may be those that nodes have in their metadata.

    As in LlamaIndex, `!=` and `nin` hold for a page without a value, and `not` means that none of the conditions holds.

    Args:
        filters: Conditions, and others within them.
        fields: What there is to filter by.

    Raises:
        InputError: There are no conditions, or an operator is not to be had, or a value cannot be one.
    """
    parts = tuple(
        page_filter(part, fields) if isinstance(part, MetadataFilters) else _condition(part, fields)
        for part in filters.filters
    )
    if not parts:
        raise InputError("the filters are empty: to search all pages, leave them out")
    if filters.condition is FilterCondition.NOT:
        return ~Any_(parts)
    return Any_(parts) if filters.condition is FilterCondition.OR else All(parts)


def _condition(part: MetadataFilter, fields: Fields) -> Filter:
    if part.operator not in _OPERATORS:
        there = ", ".join(operator.value for operator in _OPERATORS)
        raise InputError(
            f"pages cannot be filtered by the operator {part.operator.value!r} (of {part.key!r}); there are {there}, "
            "and where=, which takes a filter of nemovlm"
        )
    if part.operator in _OF_SEVERAL and not isinstance(part.value, list):
        raise InputError(f"the operator {part.operator.value!r} takes a list of values of {part.key!r}")
    name = part.key if part.key in fields else _NAMES.get(part.key, part.key)
    return _OPERATORS[part.operator](Field(name), part.value)
