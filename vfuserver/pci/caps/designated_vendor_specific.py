"""The Designated Vendor-Specific Extended capability, DVSEC (PCIe 5.0, 7.9.6): a VSEC of a vendor that it names.

CXL and others publish structures under their own vendor id for everybody's functions. A function may have several.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vfuserver.pci.block import Write
from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.checks import require_range
from vfuserver.pci.fields import DWORD, WORD, WORD_MASK, Field
from vfuserver.pci.placement import EXTENDED_CONFIG_SIZE, FIRST_EXTENDED_CAPABILITY
from vfuserver.pci.vendor_bytes import data_row, require_room

DVSEC_ID: Final = 0x0023
DVSEC_HEADER_1: Final = 0x04
DVSEC_HEADER_2: Final = 0x08
DVSEC_BODY: Final = 0x0A
DVSEC_REVISION_SHIFT: Final = 16
DVSEC_LENGTH_SHIFT: Final = 20
HIGHEST_REVISION: Final = 0xF

SHORTEST: Final = DVSEC_BODY + WORD
LONGEST: Final = EXTENDED_CONFIG_SIZE - FIRST_EXTENDED_CAPABILITY

VARIANT_VENDOR: Final = 0x1234
VARIANT_LENGTH: Final = 32
VARIANT_INITIAL: Final = b"vfuserver"
VARIANT_WRITABLE: Final = b"\x00\xff\x0f"


class DvsecHeader(IntEnum):
    """+4 (7.9.6.2)."""

    VENDOR = 0x0000_FFFF
    REVISION = 0x000F_0000
    LENGTH = 0xFFF0_0000


@dataclass(frozen=True)
class DesignatedVendorSpecific(ExtendedCapability, id=DVSEC_ID, repeatable=True):
    """`vendor`: who defines the structure `dvsec_id`; `length` is bytes in all, headers included.

    `initial` and `writable` are reset values and the mask of stored bits for the bytes from offset 10 on.
    `handler(write)` is called after each stored piece; offsets in it count from the capability's first byte.
    DeclarationError for bytes beyond `length`.
    """

    vendor: int = 0
    dvsec_id: int = 0
    revision: int = 0
    length: int = SHORTEST
    initial: bytes = b""
    writable: bytes = b""
    handler: Callable[[Write], None] | None = None

    def __post_init__(self) -> None:
        require_range(f"{self.name}.vendor", self.vendor, 0, WORD_MASK)
        require_range(f"{self.name}.dvsec_id", self.dvsec_id, 0, WORD_MASK)
        require_range(f"{self.name}.revision", self.revision, 0, HIGHEST_REVISION)
        require_range(f"{self.name}.length", self.length, SHORTEST, LONGEST)
        require_room(self.name, self._room, self.initial, self.writable)

    def body(self) -> Sequence[Field]:
        """The two vendor headers, and one field with everything behind them."""
        header = self.vendor | self.revision << DVSEC_REVISION_SHIFT | self.length << DVSEC_LENGTH_SHIFT
        return (
            Field("dvsec_header", DVSEC_HEADER_1, DWORD, reset=header, bits=DvsecHeader),
            Field("dvsec_id", DVSEC_HEADER_2, WORD, reset=self.dvsec_id),
            data_row(DVSEC_BODY, self._room, self.initial, self.writable),
        )

    @property
    def _room(self) -> int:
        return self.length - DVSEC_BODY

    @classmethod
    def variants(cls) -> Sequence["DesignatedVendorSpecific"]:
        """The shortest, one with bytes and masks, and the longest."""
        named = cls(VARIANT_VENDOR, DVSEC_ID, HIGHEST_REVISION, VARIANT_LENGTH, VARIANT_INITIAL, VARIANT_WRITABLE)
        return (cls(), named, cls(length=LONGEST))

    def on_write(self, write: Write) -> None:
        """Hands the write to the device."""
        if self.handler is not None:
            self.handler(write)
