"""Base address registers and the expansion ROM's: layout and masks (PCI 3.0, 6.2.5; PCIe 5.0, 7.5.1.2).

A BAR is nothing but a writable mask and read-only type bits, so sizing needs no code: what is written is merged into
the register, the address bits below the size stay zero, the type bits stay as they are (S2.13). It must not know what
stands behind a BAR.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from vfuserver.errors import DeclarationError
from vfuserver.pci.checks import require_power_of_two, require_range
from vfuserver.pci.fields import DWORD, DWORD_MASK, QWORD, QWORD_MASK, Field

BAR_OFFSET: Final = 0x10
ROM_OFFSET: Final = 0x30
LAST_BAR: Final = 5

TYPE_IO: Final = 0x1
TYPE_MEMORY_64: Final = 0x4
PREFETCHABLE: Final = 0x8
ROM_ENABLE: Final = 0x1

_IO_SMALLEST: Final = 4
_IO_LARGEST: Final = 256  # PCI 3.0, 6.2.5.1: no more than 256 bytes per I/O base address register
_MEMORY_SMALLEST: Final = 16
_MEMORY_32_LARGEST: Final = 1 << 31
_MEMORY_64_LARGEST: Final = 1 << 63
ROM_SMALLEST: Final = 2 << 10  # bits 10:1 are reserved
ROM_LARGEST: Final = 16 << 20  # PCI 3.0, 6.2.5.2


class BarKind(Enum):
    """What a BAR decodes, and how wide its register is."""

    MEMORY32 = "memory32"
    MEMORY64 = "memory64"
    IO = "io"


@dataclass(frozen=True, slots=True)
class _Rule:
    smallest: int
    largest: int
    width: int
    address: int
    type_bits: int


_RULES: Final = {
    BarKind.MEMORY32: _Rule(_MEMORY_SMALLEST, _MEMORY_32_LARGEST, DWORD, DWORD_MASK, 0),
    BarKind.MEMORY64: _Rule(_MEMORY_SMALLEST, _MEMORY_64_LARGEST, QWORD, QWORD_MASK, TYPE_MEMORY_64),
    BarKind.IO: _Rule(_IO_SMALLEST, _IO_LARGEST, DWORD, DWORD_MASK, TYPE_IO),
}


@dataclass(frozen=True, slots=True)
class BarLayout:
    """One BAR: `index` 0 to 5, `size` in bytes, a power of two. A 64-bit BAR takes `index` and the slot after it.

    Not `sized`: the region behind it has any size, and the register shows the next one that a BAR can have (S2.14).
    DeclarationError for a size that the kind does not allow, a 64-bit BAR at index 5, a prefetchable I/O BAR.
    """

    index: int
    size: int
    kind: BarKind = BarKind.MEMORY32
    prefetchable: bool = False
    sized: bool = True

    def __post_init__(self) -> None:
        rule = _RULES[self.kind]
        slots = rule.width // DWORD
        require_range(f"index of a {self.kind.value} BAR", self.index, 0, LAST_BAR + 1 - slots)
        if self.sized:
            require_power_of_two(f"size of {self} in bytes", self.size, rule.smallest, rule.largest)
        require_range(f"size of {self} in bytes", self.size, 1, rule.largest)
        if self.prefetchable and self.is_io:
            raise DeclarationError(f"{self} must be a memory BAR to be prefetchable, not io (PCI 3.0, 6.2.5.1)")

    def __str__(self) -> str:
        return f"BAR{self.index} ({self.kind.value})"

    @property
    def is_io(self) -> bool:
        """True for a BAR that decodes I/O ports, False for memory."""
        return self.kind is BarKind.IO

    @property
    def slots(self) -> range:
        """The BAR indexes that the register occupies: one, or two for a 64-bit BAR."""
        return range(self.index, self.index + _RULES[self.kind].width // DWORD)

    @property
    def decoded(self) -> int:
        """Bytes that the register claims: `size`, for one that is not sized the next power of two that is legal."""
        return max(1 << (self.size - 1).bit_length(), _RULES[self.kind].smallest)

    @property
    def address_mask(self) -> int:
        """The bits that a write stores: ~(decoded - 1), in 32 or 64 bits."""
        return ~(self.decoded - 1) & _RULES[self.kind].address

    @property
    def type_bits(self) -> int:
        """The read-only low bits: I/O, 64-bit, prefetchable."""
        return _RULES[self.kind].type_bits | (PREFETCHABLE if self.prefetchable else 0)

    def field(self, prefix: str = "bar", first: int = BAR_OFFSET) -> Field:
        """The register's row in the header, or among other BARs whose `first` has that offset."""
        offset = first + DWORD * self.index
        width = _RULES[self.kind].width
        return Field(f"{prefix}{self.index}", offset, width, reset=self.type_bits, writable=self.address_mask)


@dataclass(frozen=True, slots=True)
class RomLayout:
    """The expansion ROM's BAR (0x30): `size` in bytes, a power of two from 2 KiB to 16 MiB (S2.14)."""

    size: int

    def __post_init__(self) -> None:
        require_power_of_two("size of the expansion ROM in bytes", self.size, ROM_SMALLEST, ROM_LARGEST)

    def field(self) -> Field:
        """The register's row in the header: the address, and bit 0, which enables decoding."""
        address = ~(self.size - 1) & DWORD_MASK
        return Field("rom", ROM_OFFSET, DWORD, writable=address | ROM_ENABLE)
