"""The Vendor-Specific Extended capability, VSEC (PCIe 5.0, 7.9.5): whatever the device says, from 0x100 on.

Its own header says which of the vendor's structures it is and how long it is (S2.9). A function may have several. A
device that wants names for its bytes derives a class from this one, without `id=`, and states rows in `body()`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vfuserver.pci.block import Write
from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.checks import require_range
from vfuserver.pci.fields import DWORD, WORD_MASK, Field
from vfuserver.pci.placement import EXTENDED_CONFIG_SIZE, FIRST_EXTENDED_CAPABILITY
from vfuserver.pci.vendor_bytes import data_row, require_room

VSEC_ID: Final = 0x000B
VSEC_HEADER: Final = 0x04
VSEC_BODY: Final = 0x08
VSEC_REVISION_SHIFT: Final = 16
VSEC_LENGTH_SHIFT: Final = 20
HIGHEST_REVISION: Final = 0xF

SHORTEST: Final = VSEC_BODY + DWORD
LONGEST: Final = EXTENDED_CONFIG_SIZE - FIRST_EXTENDED_CAPABILITY

VARIANT_LENGTH: Final = 32
VARIANT_INITIAL: Final = b"vfuserver"
VARIANT_WRITABLE: Final = b"\x00\xff\x0f"


class VsecHeader(IntEnum):
    """+4 (7.9.5.2)."""

    ID = 0x0000_FFFF
    REVISION = 0x000F_0000
    LENGTH = 0xFFF0_0000


@dataclass(frozen=True)
class VendorSpecificExtended(ExtendedCapability, id=VSEC_ID, repeatable=True):
    """`vsec_id` and `revision` are the vendor's; `length` is bytes in all, both headers included.

    `initial` and `writable` are reset values and the mask of stored bits for the bytes from offset 8 on.
    `handler(write)` is called after each stored piece; offsets in it count from the capability's first byte.
    DeclarationError for bytes beyond `length`.
    """

    vsec_id: int = 0
    revision: int = 0
    length: int = SHORTEST
    initial: bytes = b""
    writable: bytes = b""
    handler: Callable[[Write], None] | None = None

    def __post_init__(self) -> None:
        require_range(f"{self.name}.vsec_id", self.vsec_id, 0, WORD_MASK)
        require_range(f"{self.name}.revision", self.revision, 0, HIGHEST_REVISION)
        require_range(f"{self.name}.length", self.length, SHORTEST, LONGEST)
        require_room(self.name, self._room, self.initial, self.writable)

    def body(self) -> Sequence[Field]:
        """The vendor's header, and one field with everything behind it."""
        header = self.vsec_id | self.revision << VSEC_REVISION_SHIFT | self.length << VSEC_LENGTH_SHIFT
        return (
            Field("vsec_header", VSEC_HEADER, DWORD, reset=header, bits=VsecHeader),
            data_row(VSEC_BODY, self._room, self.initial, self.writable),
        )

    @property
    def _room(self) -> int:
        return self.length - VSEC_BODY

    @classmethod
    def variants(cls) -> Sequence["VendorSpecificExtended"]:
        """The shortest, one with bytes and masks, and the longest."""
        named = cls(VSEC_ID, HIGHEST_REVISION, VARIANT_LENGTH, VARIANT_INITIAL, VARIANT_WRITABLE)
        return (cls(), named, cls(length=LONGEST))

    def on_write(self, write: Write) -> None:
        """Hands the write to the device."""
        if self.handler is not None:
            self.handler(write)
