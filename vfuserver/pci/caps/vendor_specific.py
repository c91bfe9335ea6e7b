"""The vendor-specific capability: whatever the device says (PCI 3.0, appendix H; S2.28).

A function may have several. A device that wants names for its bytes derives a class from this one, without `id=`, and
states rows in `body()`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from vfuserver.pci.block import Write
from vfuserver.pci.capability import Capability
from vfuserver.pci.checks import require_range
from vfuserver.pci.fields import BYTE, Field
from vfuserver.pci.placement import CONFIG_SIZE, FIRST_CAPABILITY
from vfuserver.pci.vendor_bytes import data_row, require_room

VENDOR_SPECIFIC_ID: Final = 0x09
VENDOR_LENGTH: Final = 0x02
VENDOR_BODY: Final = 0x03

SHORTEST: Final = VENDOR_BODY + BYTE
LONGEST: Final = CONFIG_SIZE - FIRST_CAPABILITY

VARIANT_LENGTH: Final = 16
VARIANT_INITIAL: Final = b"vfuserver"
VARIANT_WRITABLE: Final = b"\x00\xff\x0f"


@dataclass(frozen=True)
class VendorSpecific(Capability, id=VENDOR_SPECIFIC_ID, repeatable=True):
    """`length` bytes in all, header included.

    `initial` and `writable` are reset values and the mask of stored bits for the bytes from offset 3 (behind id, next
    pointer and length) on; what they leave out reads zero and drops writes. `handler(write)` is called after each
    stored piece; offsets in it count from the capability's first byte. DeclarationError for bytes beyond `length`.
    """

    length: int = SHORTEST
    initial: bytes = b""
    writable: bytes = b""
    handler: Callable[[Write], None] | None = None

    def __post_init__(self) -> None:
        require_range(f"{self.name}.length", self.length, SHORTEST, LONGEST)
        require_room(self.name, self._room, self.initial, self.writable)

    def body(self) -> Sequence[Field]:
        """The length byte, and one field with everything behind it."""
        return (
            Field("length", VENDOR_LENGTH, BYTE, reset=self.length),
            data_row(VENDOR_BODY, self._room, self.initial, self.writable),
        )

    @property
    def _room(self) -> int:
        return self.length - VENDOR_BODY

    @classmethod
    def variants(cls) -> Sequence["VendorSpecific"]:
        """The shortest, one with bytes and masks, and the longest."""
        return (cls(), cls(VARIANT_LENGTH, VARIANT_INITIAL, VARIANT_WRITABLE), cls(LONGEST))

    def on_write(self, write: Write) -> None:
        """Hands the write to the device."""
        if self.handler is not None:
            self.handler(write)
