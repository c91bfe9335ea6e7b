"""The Vendor-Specific Extended capability, VSEC (PCIe 5.0, 7.9.5): whatever the device says, from 0x100 on.

Its own header says which of the vendor's structures it is and how long it is (S2.9). A function may have several. A
device that wants names for its bytes derives a class from this one, without `id=`, and states rows in `body()`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.fields import DWORD, Field
from vfuserver.pci.vendor_bytes import (
    EXAMPLE,
    EXAMPLE_LENGTH,
    HIGHEST_REVISION,
    LONGEST_EXTENDED,
    VendorBytes,
    header,
    require_header,
)

VSEC_ID: Final = 0x000B
VSEC_HEADER: Final = 0x04
VSEC_BODY: Final = 0x08

SHORTEST: Final = VSEC_BODY + DWORD


class VsecHeader(IntEnum):
    """+4 (7.9.5.2)."""

    ID = 0x0000_FFFF
    REVISION = 0x000F_0000
    LENGTH = 0xFFF0_0000


@dataclass(frozen=True)
class VendorSpecificExtended(VendorBytes, ExtendedCapability, id=VSEC_ID, repeatable=True):
    """`vsec_id` and `revision` are the vendor's; `length` is bytes in all, both headers included.

    `initial`, `writable` and `handler` are for the bytes from offset 8 on, as `VendorBytes` says.
    """

    data_at = VSEC_BODY

    vsec_id: int = 0
    revision: int = 0
    length: int = SHORTEST

    def __post_init__(self) -> None:
        require_header(self.name, SHORTEST, self.length, self.revision, vsec_id=self.vsec_id)
        super().__post_init__()

    def body(self) -> Sequence[Field]:
        """The vendor's header, and one field with everything behind it."""
        reset = header(self.vsec_id, self.revision, self.length)
        return (Field("vsec_header", VSEC_HEADER, DWORD, reset=reset, bits=VsecHeader), self.data())

    @classmethod
    def variants(cls) -> Sequence["VendorSpecificExtended"]:
        """The shortest, one with bytes and masks, and the longest."""
        return (cls(), cls(VSEC_ID, HIGHEST_REVISION, EXAMPLE_LENGTH, **EXAMPLE), cls(length=LONGEST_EXTENDED))
