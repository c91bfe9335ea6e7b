"""The Vital Product Data capability, VPD (PCI 3.0, 6.4 and appendix I; PCIe 5.0, 7.9.19): 8 bytes in front of a store.

Software writes an address and the flag F: with F clear four bytes are fetched into the data register and F is set,
with F set the data register is stored and F is cleared, at once (S2.24). Where the store fails F stays as it was
written, and software gives up waiting. The store is no register: a reset keeps it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Self

from vfuserver.errors import LocalError, VfuserverError
from vfuserver.pci.block import Place, Write
from vfuserver.pci.capability import Capability
from vfuserver.pci.checks import require_multiple, require_range
from vfuserver.pci.fields import DWORD, DWORD_MASK, WORD, Field

VPD_ID: Final = 0x03
VPD_ADDRESS: Final = 0x02
VPD_FLAG: Final = 0x03
VPD_DATA: Final = 0x04
LARGEST_STORE: Final = 0x8000

VARIANT_CONTENT: Final = b"\x82\x09\x00vfuserver\x78\x00\x00\x00"

_log = logging.getLogger(__name__)

Load = Callable[[int], bytes]
Store = Callable[[int, bytes], None]


class VpdAddress(IntEnum):
    """+2 (6.4.1)."""

    ADDRESS = 0x7FFF
    F = 0x8000


@dataclass(frozen=True)
class VitalProductData(Capability, id=VPD_ID):
    """`content`: the bytes, a multiple of 4, at most 32 KiB; those from `writable_from` on can be stored to.

    `load(address)`, which returns four bytes, and `store(address, data)` stand in for the bytes where a device keeps
    them elsewhere; an OSError or an error of this project from them is a failure of the store. `data` of a live
    capability is what its store holds.
    """

    content: bytes = b""
    writable_from: int = LARGEST_STORE
    load: Load | None = None
    store: Store | None = None
    data: bytearray = field(default_factory=bytearray, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_range("length of VitalProductData.content", len(self.content), 0, LARGEST_STORE)
        require_multiple("length of VitalProductData.content", len(self.content), DWORD)
        require_range("VitalProductData.writable_from", self.writable_from, 0, LARGEST_STORE)

    def body(self) -> Sequence[Field]:
        """The address with F, and the data."""
        writable = VpdAddress.ADDRESS | VpdAddress.F
        return (
            Field("address", VPD_ADDRESS, WORD, writable=writable, bits=VpdAddress),
            Field("value", VPD_DATA, DWORD, writable=DWORD_MASK),
        )

    @classmethod
    def variants(cls) -> Sequence["VitalProductData"]:
        """Empty, and with a name that is read-only and an end tag that is not."""
        return (cls(), cls(VARIANT_CONTENT, len(VARIANT_CONTENT) - DWORD))

    def bind(self, place: Place) -> Self:
        """A live copy with a store of its own."""
        bound = super().bind(place)
        object.__setattr__(bound, "data", bytearray(self.content))
        return bound

    def saved(self) -> bytes:
        """The store; one that a device keeps elsewhere is the device's to save."""
        return bytes(self.data)

    def unlike(self, saved: bytes) -> str:
        """The part that nobody can write is the same in all functions of one kind (S2.31)."""
        if len(saved) != len(self.data):
            return f"must have {len(self.data)} bytes, not {len(saved)}"
        constant = self.content[: self.writable_from]
        return "" if saved.startswith(constant) else f"must begin with the same {len(constant)} bytes"

    def restore(self, saved: bytes) -> None:
        """Sets the store."""
        self.data[:] = saved

    def on_write(self, write: Write) -> None:
        """Fetches or stores, but only when the upper address byte was written (S2.24)."""
        if not write.offset <= VPD_FLAG < write.offset + write.width:
            return
        asked = self.get("address")
        storing = bool(asked & VpdAddress.F)
        try:
            self._transfer(asked & VpdAddress.ADDRESS, storing)
        except (OSError, VfuserverError) as error:
            _log.warning("VPD %s at %#x failed: %s", "write" if storing else "read", asked & VpdAddress.ADDRESS, error)
            return
        self.set_bits("address", VpdAddress.F, not storing)

    def _transfer(self, address: int, storing: bool) -> None:
        if storing:
            (self.store or self._store)(address, self.layout["value"].dump(self.get("value")))
        else:
            self.set("value", int.from_bytes((self.load or self._load)(address), "little"))

    def _load(self, address: int) -> bytes:
        if address + DWORD > len(self.data):
            raise LocalError(f"the store has {len(self.data)} bytes")
        return bytes(self.data[address : address + DWORD])

    def _store(self, address: int, data: bytes) -> None:
        if address < self.writable_from or address + DWORD > len(self.data):
            raise LocalError(f"what can be written is {self.writable_from:#x} to {len(self.data):#x}")
        self.data[address : address + DWORD] = data
