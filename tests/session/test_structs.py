"""The C structs of the wire against the construct declarations: size, offsets, random values."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.session.harness import command
from tests.wire.strategies import values
from vfuserver._core import STRUCTS
from vfuserver.session.commands.region_write_multi import WRITE
from vfuserver.wire import HEADER, Layout

PAIRS = {
    "header": HEADER,
    "region_access": command(9).request,
    "write_multi": command(15).reply,
    "write_multi_entry": WRITE,
    "dma_access": command(11).request,
    "dma_map": command(2).request,
    "dma_unmap": command(3).request,
}
RENAMED = {"id": "message_id", "write_multi.count": "wr_cnt"}


def test_every_struct_has_its_declaration() -> None:
    assert STRUCTS.keys() == PAIRS.keys()


@pytest.mark.parametrize("name", PAIRS)
def test_struct_has_the_size_and_fields_of_its_declaration(name: str) -> None:
    size, fields = STRUCTS[name]
    named = [RENAMED.get(f"{name}.{field}", RENAMED.get(field, field)) for field in fields]
    assert size == PAIRS[name].size
    assert named == list(PAIRS[name].names)


@pytest.mark.parametrize("name", PAIRS)
@given(data=st.data())
def test_struct_bytes_lie_where_the_declaration_puts_them(name: str, data: st.DataObject) -> None:
    layout: Layout = PAIRS[name]
    fields = data.draw(values(layout))
    message = layout.build(**fields)
    for (offset, size), field in zip(STRUCTS[name][1].values(), layout.names, strict=True):
        value = fields[field]
        expected = value if isinstance(value, bytes) else value.to_bytes(size, sys.byteorder)
        assert message[offset : offset + size] == expected
