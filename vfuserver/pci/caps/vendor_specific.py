"""The vendor-specific capability: whatever the device says (PCI 3.0, appendix H; S2.28).

A function may have several. A device that wants names for its bytes derives a class from this one, without `id=`, and
states rows in `body()`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vfuserver.pci.capability import Capability
from vfuserver.pci.checks import require_range
from vfuserver.pci.fields import BYTE, Field
from vfuserver.pci.placement import CONFIG_SIZE, FIRST_CAPABILITY
from vfuserver.pci.vendor_bytes import EXAMPLE, EXAMPLE_LENGTH, VendorBytes

VENDOR_SPECIFIC_ID: Final = 0x09
VENDOR_LENGTH: Final = 0x02
VENDOR_BODY: Final = 0x03

SHORTEST: Final = VENDOR_BODY + BYTE
LONGEST: Final = CONFIG_SIZE - FIRST_CAPABILITY


@dataclass(frozen=True)
class VendorSpecific(VendorBytes, Capability, id=VENDOR_SPECIFIC_ID, repeatable=True):
    """`length` bytes in all, header included.

    `initial`, `writable` and `handler` are for the bytes from offset 3 (behind id, next pointer and length) on, as
    `VendorBytes` says.
    """

    data_at = VENDOR_BODY

    length: int = SHORTEST

    def __post_init__(self) -> None:
        require_range(f"{self.name}.length", self.length, SHORTEST, LONGEST)
        super().__post_init__()

    def body(self) -> Sequence[Field]:
        """The length byte, and one field with everything behind it."""
        return (Field("length", VENDOR_LENGTH, BYTE, reset=self.length), self.data())

    @classmethod
    def variants(cls) -> Sequence["VendorSpecific"]:
        """The shortest, one with bytes and masks, and the longest."""
        return (cls(), cls(EXAMPLE_LENGTH, **EXAMPLE), cls(LONGEST))
