"""The MSI-X table and pending bits as registers behind a BAR (PCI 3.0, 6.8.2; S2.21).

QEMU keeps the table to itself and never writes it, so the table's mask bits gate a vector only when a client has
written that entry since reset. Both structures are declared here, once, for the BARs that the capability names.
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from vfuserver._core import Table
from vfuserver.device.bar import Bar
from vfuserver.errors import DeclarationError
from vfuserver.pci.caps.msi_x import MsiX
from vfuserver.registers import RW, RegisterArray

TABLE: Final = "msix_table"
PBA: Final = "msix_pba"
DWORDS: Final = 4
"""Dwords in a table entry: address low, address high, data, vector control."""
_ADDRESS_LOW, _VECTOR_CONTROL = 0, 3
_MASKED_ENTRY: Final = bytes(12) + (1).to_bytes(4, "little")
_STORED: Final = {_ADDRESS_LOW: 0xFFFF_FFFC, _VECTOR_CONTROL: 0x1}
"""Writable bits of the dwords that have read-only ones."""


class HasInterrupts(Protocol):
    """The device, as the table's write hook sees it."""

    @property
    def interrupts(self) -> "TakesEntries":
        """Its interrupts."""


class TakesEntries(Protocol):
    """The interrupts, as the table's write hook sees them."""

    def msix_written(self, element: int, value: int) -> None:
        """A client has written a dword of the table: store it, and send what it unmasks."""


def declare(capability: MsiX, bars: Mapping[int, Bar], owner: str) -> None:
    """Adds table and pending bits to the BARs that the capability names. DeclarationError if one is not there."""
    for index in (capability.table_bar, capability.pba_in):
        if index not in bars:
            raise DeclarationError(f"{owner}: MsiX must name a BAR that the class declares, not BAR{index}")
    table, pba = bars[capability.table_bar], bars[capability.pba_in]
    if not table.compiled:
        table.add(_table_rows(capability))
    if not pba.compiled:
        pba.memory(capability.pba_offset, len(capability.pba), read_only=True, name=PBA, doc="MSI-X pending bits")
    if {TABLE, PBA} - {row.name for bar in (table, pba) for row in bar.rows}:
        raise DeclarationError(f"{owner}: MsiX must lie in BARs of the same class, not in an inherited one")


def _table_rows(capability: MsiX) -> RegisterArray:
    made = RegisterArray(
        capability.table_offset,
        RW,
        count=DWORDS * capability.vectors,
        reset=_MASKED_ENTRY * capability.vectors,
        name=TABLE,
        doc="MSI-X table: address, data, vector control",
    )
    made.write_hook = entry_written
    return made


def entry_written(device: HasInterrupts, element: int, value: int) -> int:
    """The write hook of the table: keeps the writable bits."""
    value &= _STORED.get(element % DWORDS, 0xFFFF_FFFF)
    device.interrupts.msix_written(element, value)
    return value


class MsixTable:
    """One instance's table and pending bits. `masked_all` asks the capability."""

    def __init__(self, table: Table, row: int, pending: memoryview, masked_all: Callable[[], bool]) -> None:
        self._table = table
        self._row = row
        self._pending = pending
        self._masked_all = masked_all
        self.written: set[int] = set()

    def masked(self, vector: int) -> bool:
        """True while MASKALL, or the mask bit of an entry that a client has written, holds the vector back."""
        if self._masked_all():
            return True
        return vector in self.written and bool(self._table.get(self._row, DWORDS * vector + _VECTOR_CONTROL) & 1)

    def store(self, element: int, value: int) -> int:
        """Stores a dword that a client wrote and returns the vector it belongs to."""
        vector = element // DWORDS
        self._table.set(self._row, element, value)
        self.written.add(vector)
        return vector

    def show(self, vector: int, pending: bool) -> None:
        """Sets or clears a pending bit."""
        byte, bit = divmod(vector, 8)
        mask = 1 << bit
        self._pending[byte] = self._pending[byte] | mask if pending else self._pending[byte] & ~mask
