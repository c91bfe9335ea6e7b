"""Bytes whose meaning is the device's: what the three vendor-specific capabilities have in common (S2.28).

Reset values and a mask of stored bits make one field; what they leave out reads zero and drops writes. It must not
know which capability they lie in.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from vfuserver.errors import DeclarationError
from vfuserver.pci.block import Write
from vfuserver.pci.capability import AnyCapability
from vfuserver.pci.checks import require_range
from vfuserver.pci.fields import WORD_MASK, Field, ones
from vfuserver.pci.placement import EXTENDED_CONFIG_SIZE, FIRST_EXTENDED_CAPABILITY

REVISION_SHIFT: Final = 16
LENGTH_SHIFT: Final = 20
HIGHEST_REVISION: Final = 0xF
LONGEST_EXTENDED: Final = EXTENDED_CONFIG_SIZE - FIRST_EXTENDED_CAPABILITY

EXAMPLE: Final[dict[str, Any]] = {"initial": b"vfuserver", "writable": b"\x00\xff\x0f"}
"""Bytes and masks for `variants()`."""
EXAMPLE_LENGTH: Final = 32


@dataclass(frozen=True)
class VendorBytes(AnyCapability):
    """The bytes from `data_at` to the end of a capability whose author states its `length`.

    `initial` and `writable` are their reset values and the mask of stored bits. `handler(write)` is called after each
    stored piece; offsets in it count from the capability's first byte. DeclarationError for bytes beyond `length`.
    """

    data_at: ClassVar[int]

    initial: bytes = field(default=b"", kw_only=True)
    writable: bytes = field(default=b"", kw_only=True)
    handler: Callable[[Write], None] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        room = self.length - self.data_at
        for what, given in (("initial", self.initial), ("writable", self.writable)):
            if len(given) > room:
                raise DeclarationError(f"{self.name}.{what} must have at most {room} bytes, not {len(given)}")

    def data(self) -> Field:
        """The one field of all of them."""
        reset, mask = (int.from_bytes(one, "little") for one in (self.initial, self.writable))
        width = self.length - self.data_at
        return Field("data", self.data_at, width, reset=reset, writable=mask, shown=ones(width))

    def on_write(self, write: Write) -> None:
        """Hands the write to the device."""
        if self.handler is not None:
            self.handler(write)


def require_header(name: str, shortest: int, length: int, revision: int, **words: int) -> None:
    """Refuses what the vendor's header of an extended capability cannot say."""
    require_range(f"{name}.length", length, shortest, LONGEST_EXTENDED)
    require_range(f"{name}.revision", revision, 0, HIGHEST_REVISION)
    for what, value in words.items():
        require_range(f"{name}.{what}", value, 0, WORD_MASK)


def header(low: int, revision: int, length: int) -> int:
    """The vendor's header of an extended capability: an id, its revision, and the length in bytes (S2.9)."""
    return low | revision << REVISION_SHIFT | length << LENGTH_SHIFT
