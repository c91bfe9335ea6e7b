"""The MSI-X capability (PCI 3.0, 6.8.2): where table and pending bits lie, ENABLE and MASKALL.

The table and the pending bits themselves are registers behind a BAR and belong to the device. ENABLE reads as written
and decides nothing: a client arms vectors by SET_IRQS (S2.21).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vfuserver.errors import DeclarationError
from vfuserver.pci.bar import LAST_BAR, BarLayout
from vfuserver.pci.block import Write
from vfuserver.pci.capability import Capability
from vfuserver.pci.checks import require_multiple, require_range
from vfuserver.pci.fields import DWORD, DWORD_MASK, WORD, Field
from vfuserver.vfio import PciIrq

MSIX_ID: Final = 0x11
MSIX_CONTROL: Final = 0x02
MSIX_TABLE: Final = 0x04
MSIX_PBA: Final = 0x08

MSIX_MAX_VECTORS: Final = 2048
MSIX_ENTRY_BYTES: Final = 16
MSIX_PBA_BYTES: Final = 8
MSIX_PBA_VECTORS: Final = 64
"""The PBA comes in words of 8 bytes, a bit per vector."""
OFFSET_ALIGNMENT: Final = 8
DEFAULT_PBA_OFFSET: Final = 0x800


class MsixControl(IntEnum):
    """Message Control, +2. TABLE_SIZE is the number of vectors less one."""

    TABLE_SIZE = 0x07FF
    MASKALL = 0x4000
    ENABLE = 0x8000


_CONTROL_HIGH: Final = MSIX_CONTROL + 1
_MASKALL_HIGH: Final = MsixControl.MASKALL >> 8


class MsixLocation(IntEnum):
    """Table and PBA location, +4 and +8: the BAR, and the offset in it."""

    BIR = 0x0000_0007
    OFFSET = DWORD_MASK & ~0x7


@dataclass(frozen=True)
class MsiX(Capability, id=MSIX_ID):
    """`vectors`, 1 to 2048; the table at `table_offset` in BAR `table_bar`, the pending bits likewise (in the table's
    BAR unless `pba_bar` says otherwise). Offsets in bytes, multiples of 8.

    DeclarationError when they do not fit a memory BAR of the function or overlap.
    """

    vectors: int = 1
    table_bar: int = 0
    table_offset: int = 0
    pba_bar: int | None = None
    pba_offset: int = DEFAULT_PBA_OFFSET

    def __post_init__(self) -> None:
        require_range("MsiX.vectors", self.vectors, 1, MSIX_MAX_VECTORS)
        for name, bar, place in (("table", self.table_bar, self.table), ("pba", self.pba_in, self.pba)):
            require_range(f"MsiX.{name}_bar", bar, 0, LAST_BAR)
            require_range(f"MsiX.{name}_offset", place.start, 0, DWORD_MASK)
            require_multiple(f"MsiX.{name}_offset", place.start, OFFSET_ALIGNMENT)
        apart = self.table.stop <= self.pba.start or self.pba.stop <= self.table.start
        if self.table_bar == self.pba_in and not apart:
            raise DeclarationError(f"MSI-X table and pending bits must not overlap, not {self.table} and {self.pba}")

    def body(self) -> Sequence[Field]:
        """Read-only except ENABLE and MASKALL."""
        writable = MsixControl.ENABLE | MsixControl.MASKALL
        return (
            Field("control", MSIX_CONTROL, WORD, reset=self.last_vector, writable=writable, bits=MsixControl),
            Field("table", MSIX_TABLE, DWORD, reset=self.table_offset | self.table_bar, bits=MsixLocation),
            Field("pba", MSIX_PBA, DWORD, reset=self.pba_offset | self.pba_in, bits=MsixLocation),
        )

    @classmethod
    def variants(cls) -> Sequence["MsiX"]:
        """One vector; eight as testdev has them; the most there can be, with the pending bits in another BAR."""
        return (cls(), cls(8, table_bar=4), cls(MSIX_MAX_VECTORS, table_bar=0, pba_bar=LAST_BAR, pba_offset=0))

    @property
    def last_vector(self) -> int:
        """The highest vector, as Table Size encodes the number of vectors."""
        return self.vectors - 1

    @property
    def pba_in(self) -> int:
        """The BAR that holds the pending bits."""
        return self.table_bar if self.pba_bar is None else self.pba_bar

    @property
    def table(self) -> range:
        """The table's bytes in its BAR: 16 for each vector."""
        return range(self.table_offset, self.table_offset + MSIX_ENTRY_BYTES * self.vectors)

    @property
    def pba(self) -> range:
        """The pending bits' bytes in their BAR: 8 for every 64 vectors."""
        words = -(-self.vectors // MSIX_PBA_VECTORS)
        return range(self.pba_offset, self.pba_offset + MSIX_PBA_BYTES * words)

    @property
    def enabled(self) -> bool:
        """The ENABLE bit as it reads."""
        return bool(self.get("control") & MsixControl.ENABLE)

    @property
    def masked_all(self) -> bool:
        """True while MASKALL keeps every vector from being sent (S2.21)."""
        return bool(self.place.values[_CONTROL_HIGH] & _MASKALL_HIGH)

    def check(self, bars: Sequence[BarLayout]) -> None:
        """Table and pending bits lie in memory BARs that have room for them."""
        for index, bytes_in_bar in ((self.table_bar, self.table), (self.pba_in, self.pba)):
            bar = next((bar for bar in bars if bar.index == index and not bar.is_io), None)
            if bar is None or bytes_in_bar.stop > bar.size:
                raise DeclarationError(
                    f"MSI-X needs bytes {bytes_in_bar.start:#x} to {bytes_in_bar.stop - 1:#x} of BAR{index}: "
                    f"it must be a memory BAR that has them, not {'absent' if bar is None else hex(bar.size)}"
                )

    def on_write(self, write: Write) -> None:
        """Tells the device of MASKALL and ENABLE."""
        if write.changed("control"):
            self.port.interrupts_changed(PciIrq.MSIX)
