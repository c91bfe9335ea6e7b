"""Random values for any layout, found by walking its construct declaration."""

from typing import Any

import construct
from hypothesis import strategies as st

from vfuserver.wire import Layout


def values(layout: Layout) -> st.SearchStrategy[dict[str, Any]]:
    """Values that `layout` can build; computed fields are left out."""
    return _struct(layout.construct)


def _struct(struct: Any) -> st.SearchStrategy[dict[str, Any]]:
    fields = {field.name: _field(field.subcon) for field in struct.subcons if not _computed(field)}
    return st.fixed_dictionaries(fields)


def _computed(field: Any) -> bool:
    return isinstance(field.subcon, construct.Rebuild)


def _field(field: Any) -> st.SearchStrategy[Any]:
    if isinstance(field, construct.ExprAdapter | construct.Renamed):
        return _field(field.subcon)
    if isinstance(field, construct.FormatField):
        return _integer(field)
    if isinstance(field, construct.Bytes):
        fixed = field.length if isinstance(field.length, int) else None
        return st.binary(min_size=fixed or 0, max_size=64 if fixed is None else fixed)
    if isinstance(field, construct.GreedyBytes.__class__):
        return st.binary(max_size=64)
    if isinstance(field, construct.Array):
        return st.lists(_field(field.subcon), max_size=5)
    if isinstance(field, construct.Struct):
        return _struct(field)
    raise TypeError(f"no strategy for {field}")


def _integer(field: Any) -> st.SearchStrategy[int]:
    bits = 8 * field.sizeof()
    if field.fmtstr[-1].islower():
        return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)
    return st.integers(0, (1 << bits) - 1)


def plain(value: Any) -> Any:
    """A parsed container as dictionaries and lists, to compare with what was built."""
    if isinstance(value, construct.Container):
        return {name: plain(item) for name, item in value.items() if name != "_io"}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value
