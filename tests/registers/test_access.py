"""What the compiled map does when it is read and written, for every policy."""

import pytest

from vfuserver._core import Table
from vfuserver.errors import CommandError
from vfuserver.registers import RC, RO, RW, W1C, W1S, WO, MemoryWindow, Policy, RegisterMap


def table(registers: RegisterMap) -> Table:
    layout = registers.compile("Test.registers")
    memory = {row.index: bytearray(row.reset_image("")) for row in registers.rows if isinstance(row, MemoryWindow)}
    return Table(layout, memory=memory)


def one(policy: Policy, reset: int) -> Table:
    registers = RegisterMap(16)
    registers.register(0, policy, width=4, reset=reset)
    return table(registers)


@pytest.mark.parametrize(
    ("policy", "reset", "written", "reads"),
    [
        (RO(), 0x1234, 0xFFFFFFFF, 0x1234),
        (RW(), 0x1234, 0xABCD, 0xABCD),
        (RW(0x00FF00FF), 0x12345678, 0xFFFFFFFF, 0x12FF56FF),
        (WO(), 0x1234, 0xABCD, 0),
        (W1C(), 0xFFFF, 0x0F0F, 0xF0F0),
        (W1C(0xFF), 0xFFFF, 0xFFFF, 0xFF00),
        (W1S(), 0x0F, 0xF0, 0xFF),
        (RW(0xF) | W1C(0xF0), 0xF0, 0x35, 0xC5),
    ],
)
def test_write_then_read_follows_the_policy(policy: Policy, reset: int, written: int, reads: int) -> None:
    registers = one(policy, reset)
    registers.write(0, written.to_bytes(4, "little"))
    assert int.from_bytes(registers.read(0, 4), "little") == reads


def test_read_to_clear_register_clears_only_the_bytes_read() -> None:
    registers = one(RC(), 0x11223344)
    assert registers.read(0, 2) == b"\x44\x33"
    assert registers.read(0, 4) == b"\x00\x00\x22\x11"


def test_counter_counts_each_write_whatever_is_written() -> None:
    registers = RegisterMap(16)
    registers.counter(0)
    bar = table(registers)
    for _ in range(3):
        bar.write(0, bytes(4))
    assert bar.read(0, 4) == b"\x03\0\0\0"


def test_access_across_registers_is_cut_into_pieces() -> None:
    registers = RegisterMap(16)
    registers.array(0, RW, width=2, count=8)
    bar = table(registers)
    bar.write(1, b"abcdefg")
    assert bar.read(0, 16) == b"\0abcdefg" + bytes(8)


def test_strict_register_refuses_other_widths_before_any_effect() -> None:
    registers = RegisterMap(16)
    registers.rw(0)
    registers.rw(4, strict=True)
    bar = table(registers)
    with pytest.raises(CommandError) as raised:
        bar.write(0, bytes([1, 1, 1, 1, 2, 2]))
    assert raised.value.errno == 22
    assert bar.read(0, 8) == bytes(8)


@pytest.mark.parametrize(("split", "first", "second"), [("lo-hi", 0, 4), ("hi-lo", 4, 0)])
def test_split_register_takes_effect_with_its_second_half(split: str, first: int, second: int) -> None:
    registers = RegisterMap(16)
    registers.rw(0, width=8, split=split)  # type: ignore[arg-type]
    bar = table(registers)
    bar.write(first, b"\x11" * 4)
    assert bar.read(0, 8) == bytes(8)
    bar.write(second, b"\x22" * 4)
    assert bar.read(first, 4) + bar.read(second, 4) == b"\x11" * 4 + b"\x22" * 4


def test_unsplit_register_takes_each_half_at_once() -> None:
    registers = RegisterMap(16)
    registers.rw(0, width=8)
    bar = table(registers)
    bar.write(4, b"\x11" * 4)
    assert bar.read(0, 8) == bytes(4) + b"\x11" * 4


def test_undeclared_access_reads_zero_and_is_counted() -> None:
    registers = RegisterMap(16)
    registers.rw(0)
    bar = table(registers)
    bar.write(8, b"\xff" * 4)
    assert bar.read(8, 4) == bytes(4)
    assert bar.undeclared == 2


def test_reserved_register_reads_zero_and_is_not_counted() -> None:
    registers = RegisterMap(16)
    registers.reserved(0)
    bar = table(registers)
    bar.write(0, b"\xff" * 4)
    assert bar.read(0, 4) == bytes(4)
    assert bar.undeclared == 0


def test_memory_window_takes_any_width_and_alignment() -> None:
    registers = RegisterMap(64)
    registers.memory(0, 64, reset={60: b"tail"})
    bar = table(registers)
    bar.write(3, b"hello world")
    assert bar.read(0, 64) == bytes(3) + b"hello world" + bytes(46) + b"tail"


def test_read_only_memory_drops_writes() -> None:
    registers = RegisterMap(16)
    registers.memory(0, 16, reset=b"rom", read_only=True)
    bar = table(registers)
    bar.write(0, b"xxx")
    assert bar.read(0, 3) == b"rom"


def test_reset_brings_the_reset_values_back() -> None:
    registers = one(RW(), 0x55)
    registers.write(0, b"\0\0\0\0")
    registers.reset()
    assert registers.read(0, 1) == b"\x55"
