"""The Designated Vendor-Specific Extended capability, DVSEC (PCIe 5.0, 7.9.6): a VSEC of a vendor that it names.

CXL and others publish structures under their own vendor id for everybody's functions. A function may have several.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.fields import DWORD, WORD, Field
from vfuserver.pci.vendor_bytes import (
    EXAMPLE,
    EXAMPLE_LENGTH,
    HIGHEST_REVISION,
    LONGEST_EXTENDED,
    VendorBytes,
    header,
    require_header,
)

DVSEC_ID: Final = 0x0023
DVSEC_HEADER_1: Final = 0x04
DVSEC_HEADER_2: Final = 0x08
DVSEC_BODY: Final = 0x0A

SHORTEST: Final = DVSEC_BODY + WORD

VARIANT_VENDOR: Final = 0x1234


class DvsecHeader(IntEnum):
    """+4 (7.9.6.2)."""

    VENDOR = 0x0000_FFFF
    REVISION = 0x000F_0000
    LENGTH = 0xFFF0_0000


@dataclass(frozen=True)
class DesignatedVendorSpecific(VendorBytes, ExtendedCapability, id=DVSEC_ID, repeatable=True):
    """`vendor`: who defines the structure `dvsec_id`; `length` is bytes in all, headers included.

    `initial`, `writable` and `handler` are for the bytes from offset 10 on, as `VendorBytes` says.
    """

    data_at = DVSEC_BODY

    vendor: int = 0
    dvsec_id: int = 0
    revision: int = 0
    length: int = SHORTEST

    def __post_init__(self) -> None:
        words = {"vendor": self.vendor, "dvsec_id": self.dvsec_id}
        require_header(self.name, SHORTEST, self.length, self.revision, **words)
        super().__post_init__()

    def body(self) -> Sequence[Field]:
        """The two vendor headers, and one field with everything behind them."""
        reset = header(self.vendor, self.revision, self.length)
        return (
            Field("dvsec_header", DVSEC_HEADER_1, DWORD, reset=reset, bits=DvsecHeader),
            Field("dvsec_id", DVSEC_HEADER_2, WORD, reset=self.dvsec_id),
            self.data(),
        )

    @classmethod
    def variants(cls) -> Sequence["DesignatedVendorSpecific"]:
        """The shortest, one with bytes and masks, and the longest."""
        named = cls(VARIANT_VENDOR, DVSEC_ID, HIGHEST_REVISION, EXAMPLE_LENGTH, **EXAMPLE)
        return (cls(), named, cls(length=LONGEST_EXTENDED))
