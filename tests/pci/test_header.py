from collections.abc import Callable

import pytest

from vfuserver._core import Gate
from vfuserver.errors import DeclarationError
from vfuserver.pci import BarKind, BarLayout, Command, ConfigSpace, Status
from vfuserver.pci.caps.power_management import PowerManagement
from vfuserver.vfio import PciIrq

Make = Callable[..., ConfigSpace]
Events = list[tuple[object, ...]]

MEMORY_ONLY = [BarLayout(0, 0x1000)]


def test_header_identification_reads_as_declared(make: Make) -> None:
    config = make(interrupt_pin=1, multifunction=True)
    assert config.access(0, 4, None) == bytes.fromhex("3412577e")
    assert config.access(8, 8, None) == bytes.fromhex("010000ff00008000")
    assert config.access(0x2C, 4, None) == bytes.fromhex("34120100")
    assert config.read(0x3D, 1) == 1


def test_header_all_ones_changes_only_writable_bits(make: Make) -> None:
    """S2.18: the whole header against the expected image."""
    config = make(PowerManagement(), interrupt_pin=1)
    for offset in range(0, 0x40, 4):
        config.write(offset, 4, 0xFFFF_FFFF)
    assert config.access(0, 0x40, None) == bytes.fromhex(
        "3412577e 47051000 010000ff ffff00ff"
        "00f0ffff 00f0ffff 0c00f0ff ffffffff"
        "00f0ffff 01ffffff 00000000 34120100"
        "00000000 40000000 00000000 ff010000"
    )


def test_command_all_ones_with_io_bar_reads_mask(make: Make) -> None:
    """S2.15: write mask 0x0547."""
    config = make()
    config.write(4, 2, 0xFFFF)
    assert config.read(4, 2) == 0x0547


def test_command_io_bit_without_io_bar_stays_clear(make: Make) -> None:
    """S2.15: I/O only if an I/O BAR exists."""
    config = make(bars=MEMORY_ONLY)
    config.write(4, 2, 0xFFFF)
    assert config.read(4, 2) == 0x0546


def test_command_written_drives_gate(make: Make, gate: Gate) -> None:
    """S2.15, S0.16: memory, I/O and bus master reach the gate."""
    config = make()
    config.write(4, 2, 0x7)
    assert gate.word == Gate.RUNNING | Gate.IO | Gate.MEMORY | Gate.MASTER
    config.write(4, 1, 0x2)
    assert gate.word == Gate.RUNNING | Gate.MEMORY


def test_command_same_value_again_tells_nobody(make: Make, events: Events) -> None:
    config = make()
    config.write(4, 2, 0x7)
    events.clear()
    config.write(4, 2, 0x7)
    assert events == []


def test_command_master_set_makes_message_interrupts_due(make: Make, events: Events) -> None:
    """S2.15: what became pending without bus mastering is delivered when it is on, after the gate says so."""
    config = make()
    config.write(4, 2, Command.MASTER)
    assert events == [
        ("enables", Command(0), Command.MASTER),
        ("interrupts", PciIrq.MSI),
        ("interrupts", PciIrq.MSIX),
    ]


def test_command_other_enable_with_master_on_makes_nothing_due(make: Make, events: Events) -> None:
    config = make()
    config.write(4, 2, Command.MASTER)
    events.clear()
    config.write(4, 2, Command.MASTER | Command.MEMORY)
    assert [event[0] for event in events] == ["enables"]


def test_intx_disable_by_byte_write_at_5_reported_both_ways(make: Make, events: Events) -> None:
    """S2.16: reacts to a byte write at offset 5, in both directions."""
    config = make(interrupt_pin=1)
    disabled = []
    for byte in (b"\x04", b"\x00"):
        config.access(5, 1, byte)
        disabled.append(config.intx_disabled)
    assert disabled == [True, False]
    assert events == [("interrupts", PciIrq.INTX)] * 2


def test_status_interrupt_bit_shows_line_while_disabled(make: Make) -> None:
    """S2.16: STATUS bit 3 reports the line regardless of INTX_DISABLE."""
    config = make(interrupt_pin=1)
    config.write(4, 2, Command.INTX_DISABLE)
    config.set_interrupt_status(True)
    config.write(6, 2, 0xFFFF)
    assert config.read(6, 2) & Status.INTERRUPT
    config.set_interrupt_status(False)
    assert not config.read(6, 2) & Status.INTERRUPT


@pytest.mark.parametrize("bit", [0x0100, 0x0800, 0x1000, 0x2000, 0x4000, 0x8000])
def test_status_error_is_cleared_by_its_own_bit_only(make: Make, bit: int) -> None:
    """S2.17: write 0 keeps, write 1 clears only that bit of 0xf900."""
    config = make()
    config.report_errors(Status(0xF900))
    config.write(6, 2, 0)
    assert config.read(6, 2) == 0xF900
    config.write(6, 2, bit)
    assert config.read(6, 2) == 0xF900 & ~bit


def test_status_report_touches_error_bits_only(make: Make) -> None:
    config = make()
    config.report_errors(Status(0xFFFF))
    assert config.read(6, 2) == 0xF900


def test_status_capability_list_only_with_capabilities(make: Make) -> None:
    """S2.17: CAP_LIST and the pointer follow the list."""
    assert (make().read(6, 2), make().read(0x34, 1)) == (0, 0)
    config = make(PowerManagement())
    assert (config.read(6, 2), config.read(0x34, 1)) == (Status.CAPABILITIES_LIST, 0x40)


def test_command_and_status_written_together_keep_apart(make: Make) -> None:
    config = make()
    config.report_errors(Status.RECEIVED_MASTER_ABORT)
    config.write(4, 4, 0x0000_0007)
    assert config.read(4, 4) == 0x2000_0007


def test_interrupt_pin_beyond_d_refused(make: Make) -> None:
    with pytest.raises(DeclarationError, match="interrupt pin must be 0x0 to 0x4, not 0x5"):
        make(interrupt_pin=5)


@pytest.mark.parametrize("bars", [MEMORY_ONLY, [BarLayout(0, 16, BarKind.IO)], []], ids=["memory", "io", "none"])
def test_memory_enabled_follows_command(make: Make, bars: object) -> None:
    """S0.6: MEM is writable whatever BARs there are."""
    config = make(bars=bars)
    assert not config.memory_enabled
    config.write(4, 2, Command.MEMORY)
    assert config.memory_enabled
