from collections.abc import Callable

import pytest

from vfuserver.errors import DeclarationError
from vfuserver.pci import ConfigSpace
from vfuserver.pci.caps.msi_x import MsiX
from vfuserver.vfio import PciIrq

Make = Callable[..., ConfigSpace]
Events = list[tuple[object, ...]]

TESTDEV_MSIX = MsiX(8, table_bar=4)


def test_msix_all_ones_changes_enable_and_maskall_only(make: Make) -> None:
    """S2.21: read-only except ENABLE and MASKALL. S2.9: 12 bytes."""
    config = make(TESTDEV_MSIX)
    assert TESTDEV_MSIX.length == 12
    assert config.access(0x40, 12, None) == bytes.fromhex("11000700 04000000 04080000")
    config.access(0x40, 12, b"\xff" * 12)
    assert config.access(0x40, 12, None) == bytes.fromhex("110007c0 04000000 04080000")


def test_msix_maskall_and_enable_are_told(make: Make, events: Events) -> None:
    """S2.21: MASKALL masks, and the device learns when it ends."""
    config = make(TESTDEV_MSIX)
    msix = config.find(MsiX)
    assert msix is not None
    config.write(0x42, 2, 0xC000)
    assert (msix.masked_all, msix.enabled) == (True, True)
    config.write(0x43, 1, 0x80)
    assert (msix.masked_all, msix.enabled) == (False, True)
    config.write(0x44, 4, 0xFFFF_FFFF)
    assert events == [("interrupts", PciIrq.MSIX)] * 2


def test_msix_ranges_cover_every_vector() -> None:
    """S2.21: 16 bytes an entry, 8 pending bytes for 64 vectors."""
    msix = MsiX(65, table_offset=0x1000, pba_offset=0x2000)
    assert (msix.table, msix.pba) == (range(0x1000, 0x1410), range(0x2000, 0x2010))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vectors": 0}, "MsiX.vectors must be 0x1 to 0x800"),
        ({"vectors": 2049}, "MsiX.vectors must be 0x1 to 0x800"),
        ({"table_bar": 6}, "MsiX.table_bar must be 0x0 to 0x5"),
        ({"pba_bar": 7}, "MsiX.pba_bar must be 0x0 to 0x5"),
        ({"table_offset": 4}, "MsiX.table_offset must be a multiple of 8"),
        ({"pba_offset": 0x804}, "MsiX.pba_offset must be a multiple of 8"),
        ({"vectors": 129}, "must not overlap"),
        ({"vectors": 1, "table_offset": 0x800}, "must not overlap"),
    ],
)
def test_msix_impossible_declaration_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        MsiX(**{"vectors": 8, **arguments})


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        (MsiX(8, table_bar=3), "bytes 0x0 to 0x7f of BAR3.*not absent"),
        (MsiX(8, table_bar=5), "BAR5.*not absent"),
        (MsiX(8, table_bar=4, pba_offset=0x1000), "bytes 0x1000 to 0x1007 of BAR4.*not 0x1000"),
    ],
    ids=["no BAR", "I/O BAR", "too small"],
)
def test_msix_outside_the_function_s_memory_bars_refused(make: Make, declared: MsiX, message: str) -> None:
    """S2.21: table and PBA in memory BARs that have room."""
    with pytest.raises(DeclarationError, match=message):
        make(declared)
