"""Register tables: pieces, masks, hooks, the gate (S0.16, S2.2, S3.9)."""

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.native.streams import FAILS, LAYOUT, WAITS, Peer
from vfuserver import _core
from vfuserver.errors import CommandError, DeclarationError, LocalError


@pytest.fixture
def table(peer: Peer) -> _core.Table:
    return peer.table


def test_read_across_registers_and_gaps_is_cut_into_pieces(table: _core.Table) -> None:
    assert table.read(0, 8) == b"TEST\0\0\0\0"
    assert table.read(0x0C, 8) == bytes(8)
    assert table.undeclared == 1


def test_undeclared_pieces_are_counted_as_the_largest_aligned_ones(table: _core.Table) -> None:
    seen: list[tuple[int, int, int | None]] = []
    table.on_undeclared = lambda offset, width, value: seen.append((offset, width, value))
    table.read(0x81, 7)
    table.write(0x200, b"\x07\0\0\0")
    assert seen == [(0x81, 1, None), (0x82, 2, None), (0x84, 4, None), (0x200, 4, 7)]
    assert table.undeclared == 4


def test_narrow_write_is_merged_and_the_hook_sees_the_whole(peer: Peer) -> None:
    peer.table.write(8, b"\x11\x22\x33\x44")
    peer.table.write(9, b"\xff")
    assert peer.written == [0x44332211, 0x4433FF11]


def test_write_one_to_clear_clears_only_written_bytes(table: _core.Table) -> None:
    table.write(0x45, b"\xff")
    assert table.get(6, 1) == 0xFFFF00FF
    assert table.get(6, 0) == 0xFFFFFFFF


def test_write_one_to_set_and_read_to_clear(table: _core.Table) -> None:
    table.write(0x54, b"\x81\0\0\0")
    table.write(0x54, b"\x02\0\0\0")
    assert table.get(8) == 0x83
    assert (table.read(0x50, 2), table.read(0x50, 4)) == (b"\xff\xff", b"\0\0\xff\xff")


def test_counter_counts_accesses_not_values(table: _core.Table) -> None:
    for _ in range(3):
        table.write(0x30, b"\x63\0\0\0")
    table.write(0x30, b"\x01")
    assert table.get(5) == 4


def test_split_register_takes_effect_with_its_high_half(peer: Peer) -> None:
    peer.table.write(0x60, b"\x01\0\0\0")
    assert (peer.written, peer.table.get(9)) == ([], 0)
    peer.table.write(0x64, b"\x02\0\0\0")
    assert (peer.written, peer.table.get(9)) == ([0x2_0000_0001], 0x2_0000_0001)
    peer.table.write(0x60, struct.pack("<Q", 5))
    assert peer.written[1:] == [5]


def test_half_of_a_split_register_can_be_taken_and_set(peer: Peer) -> None:
    """S2.31: what was written of one half is state."""
    assert peer.table.latched(9) is None
    peer.table.write(0x60, b"\x01\0\0\0")
    assert peer.table.latched(9) == 1
    peer.table.latch(9, 7)
    peer.table.write(0x64, b"\x02\0\0\0")
    assert (peer.written, peer.table.latched(9)) == ([0x2_0000_0007], None)
    peer.table.latch(9, 7)
    peer.table.latch(9, None)
    assert peer.table.latched(9) is None
    with pytest.raises(IndexError):
        peer.table.latched(99)
    with pytest.raises(OverflowError):
        peer.table.latch(9, -1)


@pytest.mark.parametrize(("offset", "count"), [(0x20, 2), (0x21, 1), (0x1C, 6)])
def test_illegal_piece_of_a_strict_register_is_einval_before_any_effect(
    table: _core.Table, offset: int, count: int
) -> None:
    with pytest.raises(CommandError) as caught:
        table.write(offset, b"\xff" * count)
    assert caught.value.errno == errno.EINVAL
    assert table.undeclared == 0


def test_closed_gate_reads_ones_drops_writes_and_counts(peer: Peer) -> None:
    """S0.16: the model sees nothing while COMMAND disables memory."""
    peer.gate.clear(_core.Gate.MEMORY)
    peer.table.write(8, b"\1\0\0\0")
    assert peer.table.read(0, 4) == b"\xff" * 4
    assert (peer.written, peer.gate.refused) == ([], 2)
    peer.gate.set(_core.Gate.MEMORY)
    assert peer.table.read(0, 4) == b"TEST"


def test_stopped_device_answers_from_stored_values_without_hooks(peer: Peer) -> None:
    """S3.9: in STOP reads give stored values, writes are dropped and counted."""
    peer.table.set(2, 0, 5)
    peer.gate.clear(_core.Gate.RUNNING)
    peer.table.write(8, b"\x09\0\0\0")
    assert peer.table.read(8, 4) == b"\x05\0\0\0"
    assert (peer.written, peer.gate.refused) == ([], 1)
    peer.table.read(0x0C, 4)
    assert peer.table.undeclared == 0


def test_hook_error_outside_a_stream_reaches_the_caller(table: _core.Table) -> None:
    with pytest.raises(CommandError) as caught:
        table.write(8, bytes([FAILS, 0, 0, 0]))
    assert caught.value.errno == errno.ENXIO


def test_asynchronous_register_needs_a_stream(table: _core.Table) -> None:
    table.set(2, 0, WAITS)
    with pytest.raises(LocalError, match="asynchronous"):
        table.read(8, 4)


@pytest.mark.parametrize("value", [-1, 2**32, 2**70])
def test_hook_value_out_of_range_is_an_error_not_a_mask(value: int) -> None:
    layout = _core.Layout(4, [(0, 4, 1, bytes(4), 0xFFFFFFFF, 0, 0, 0, 0, _core.READ_HOOK)])
    table = _core.Table(layout, {0: (lambda: value, None)})
    with pytest.raises(CommandError) as caught:
        table.read(0, 4)
    assert isinstance(caught.value.__cause__, ValueError)


def test_array_hook_gets_its_element() -> None:
    seen: list[tuple[int, int]] = []
    row = (0, 2, 4, bytes(8), 0xFFFF, 0, 0xFFFF, 0, 0, _core.READ_HOOK | _core.WRITE_HOOK)
    table = _core.Table(_core.Layout(8, [row]), {0: (lambda element: element * 10, lambda *args: seen.append(args))})
    table.write(4, b"\x07\0")
    assert seen == [(2, 7)]
    assert table.read(0, 8) == struct.pack("<4H", 0, 10, 20, 30)


def test_reset_restores_values_and_the_count(table: _core.Table) -> None:
    table.write(0x44, b"\xff" * 4)
    table.read(0x80, 1)
    table.reset()
    assert (table.get(6, 1), table.undeclared) == (0xFFFFFFFF, 0)


def test_external_memory_is_served_in_place() -> None:
    backing = bytearray(64)
    table = _core.Table(_core.Layout(64, [(0, 1, 64, b"", 0xFF, 0, 0xFF, 0, 0, _core.MEMORY)]), memory={0: backing})
    table.write(3, b"hello")
    assert backing[3:8] == b"hello"
    backing[60:] = b"tail"
    assert table.read(60, 4) == b"tail"


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([(0, 3, 1, bytes(3), 0, 0, 0, 0, 0, 0)], "width must be"),
        ([(2, 4, 1, bytes(4), 0, 0, 0, 0, 0, 0)], "multiple of"),
        ([(0, 4, 1, bytes(3), 0, 0, 0, 0, 0, 0)], "reset image"),
        ([(0, 4, 1, bytes(4), 0, 0, 0, 0, 0, 0), (0, 4, 1, bytes(4), 0, 0, 0, 0, 0, 0)], "must not lie"),
        ([(4092, 4, 2, bytes(8), 0, 0, 0, 0, 0, 0)], "inside the region"),
    ],
)
def test_impossible_layout_is_a_declaration_error(rows: list["_core.RegisterRow"], why: str) -> None:
    with pytest.raises(DeclarationError, match=why):
        _core.Layout(4096, rows)


def test_hook_flag_without_a_hook_is_a_declaration_error() -> None:
    with pytest.raises(DeclarationError, match="declares a hook"):
        _core.Table(LAYOUT)


masks = st.integers(0, 0xFFFFFFFF)


@given(masks, masks, masks, masks, masks, st.sampled_from([1, 2, 4]), st.integers(0, 3), masks)
def test_masks_agree_with_a_bit_by_bit_model(
    start: int, readable: int, store: int, clear: int, set_: int, width: int, where: int, written: int
) -> None:
    """S2.2: what each bit does is its masks, whatever the access."""
    offset = where * width % 4
    row = (0, 4, 1, struct.pack("<I", start), readable, 0, store, clear, set_, 0)
    table = _core.Table(_core.Layout(4, [row]))
    table.write(offset, struct.pack("<I", written)[:width])
    expected = 0
    for bit in range(32):
        value = start >> bit & 1
        if offset * 8 <= bit < (offset + width) * 8:
            new = written >> (bit - offset * 8) & 1
            value = new if store >> bit & 1 else value
            value = 0 if new and clear >> bit & 1 else value
            value = 1 if new and set_ >> bit & 1 else value
        expected |= value << bit
    assert table.get(0) == expected
    assert table.read(0, 4) == struct.pack("<I", expected & readable)
