"""Layouts: parse, build, pack, unpack."""

from enum import IntFlag

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfuserver.wire import EMPTY, S32, U16, U32, U64, Array, Bits, Blob, Count, Layout, LayoutError, Nested, Rest


class Colour(IntFlag):
    RED = 1
    BLUE = 4


PAIR = Layout("x" / U16, "y" / S32)
MIXED = Layout(
    "n" / Count(U32, "data"), "flags" / Bits(Colour), "pair" / Nested(PAIR), "data" / Blob("n"), "rest" / Rest
)
LISTED = Layout("n" / Count(U64, "pairs"), "pairs" / Array("n", PAIR))


def test_size_of_mixed_layout_counts_the_fixed_part() -> None:
    assert (EMPTY.size, PAIR.size, MIXED.size, LISTED.size) == (0, 6, 14, 8)


def test_names_are_the_fields_in_order() -> None:
    assert MIXED.names == ("n", "flags", "pair", "data", "rest")


def test_build_mixed_computes_count() -> None:
    data = MIXED.build(flags=Colour.RED, pair={"x": 1, "y": -1}, data=b"abc", rest=b"!")
    assert data.hex() == "03000000010000000100ffffffff61626321"


def test_parse_mixed_gives_fields_by_name() -> None:
    values = MIXED.parse(bytes.fromhex("02000000050000000100ffffffff616263"))
    assert (values.flags, values.pair.y, values.data, values.rest) == (Colour.RED | Colour.BLUE, -1, b"ab", b"c")


def test_parse_unknown_bits_survive() -> None:
    assert int(MIXED.parse(MIXED.build(flags=0x80, pair={"x": 0, "y": 0}, data=b"", rest=b"")).flags) == 0x80


def test_parse_array_shorter_than_its_count_fails() -> None:
    with pytest.raises(LayoutError, match="too few"):
        LISTED.parse((2).to_bytes(8, "little") + PAIR.pack(1, 2))


@pytest.mark.parametrize("length", range(6))
def test_short_data_fails_both_ways(length: int) -> None:
    for read in (PAIR.parse, PAIR.unpack):
        with pytest.raises(LayoutError, match=f"{length} bytes"):
            read(bytes(length))


def test_build_missing_field_fails_and_names_it() -> None:
    with pytest.raises(LayoutError, match="y"):
        PAIR.build(x=1)


def test_build_and_pack_out_of_range_fail() -> None:
    with pytest.raises(LayoutError):
        PAIR.build(x=1 << 16, y=0)
    with pytest.raises(LayoutError):
        PAIR.pack(1 << 16, 0)


@given(st.integers(0, 0xFFFF), st.integers(-(1 << 31), (1 << 31) - 1))
def test_pack_and_build_give_the_same_bytes(x: int, y: int) -> None:
    data = PAIR.pack(x, y)
    assert data == PAIR.build(x=x, y=y)
    assert PAIR.unpack(data) == (x, y)
    assert (PAIR.parse(data).x, PAIR.parse(data).y) == (x, y)


def test_unpack_mixed_gives_the_leading_integers_only() -> None:
    assert MIXED.unpack(bytes.fromhex("0200000005000000ff")) == (2, 5)
