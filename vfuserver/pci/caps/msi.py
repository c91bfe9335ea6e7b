"""The MSI capability in its four layouts: 32 or 64-bit address, with or without per-vector masks (PCI 3.0, 6.8.1).

Mask and pending bits are the server's own: never forwarded, pending never writable (S2.20). ENABLE reads as written
and decides nothing: a client arms vectors by SET_IRQS (S2.19).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import product
from typing import Final

from vfuserver.errors import LocalError
from vfuserver.pci.block import Write
from vfuserver.pci.capability import Capability
from vfuserver.pci.checks import require_power_of_two
from vfuserver.pci.fields import DWORD, DWORD_MASK, WORD, WORD_MASK, Field
from vfuserver.vfio import PciIrq

MSI_ID: Final = 0x05
MSI_CONTROL: Final = 0x02
MSI_ADDRESS_LOW: Final = 0x04
MSI_ADDRESS_HIGH: Final = 0x08
MSI_DATA_32: Final = 0x08
MSI_MASK_32: Final = 0x0C
MSI_PENDING_32: Final = 0x10
HIGH_BYTES: Final = 4
"""How much further back everything behind the address lies with a 64-bit address."""
MSI_MASK_64: Final = MSI_MASK_32 + HIGH_BYTES

MSI_MAX_VECTORS: Final = 32
ADDRESS_LOW_WRITABLE: Final = 0xFFFF_FFFC
QMASK_SHIFT: Final = 1
QSIZE_SHIFT: Final = 4


class MsiControl(IntEnum):
    """Message Control, +2. QMASK and QSIZE are logarithms of vector counts: capable of, and enabled."""

    ENABLE = 0x0001
    QMASK = 0x000E
    QSIZE = 0x0070
    ADDRESS_64 = 0x0080
    MASKBIT = 0x0100


@dataclass(frozen=True)
class Msi(Capability, id=MSI_ID):
    """`vectors`: 1, 2, 4, 8, 16 or 32. `address64`: takes a 64-bit address. `maskable`: per-vector mask and pending."""

    vectors: int = 1
    address64: bool = True
    maskable: bool = True

    def __post_init__(self) -> None:
        require_power_of_two("Msi.vectors", self.vectors, 1, MSI_MAX_VECTORS)

    def body(self) -> Sequence[Field]:
        """Control, address, data; with `maskable` mask and pending bits of the implemented vectors."""
        shift = HIGH_BYTES if self.address64 else 0
        return (
            Field(
                "control",
                MSI_CONTROL,
                WORD,
                reset=self._control(),
                writable=MsiControl.ENABLE,
                hooked=MsiControl.QSIZE,
                bits=MsiControl,
            ),
            Field("address_low", MSI_ADDRESS_LOW, DWORD, writable=ADDRESS_LOW_WRITABLE),
            *self._address_high(),
            Field("data", MSI_DATA_32 + shift, WORD, writable=WORD_MASK),
            *self._masks(shift),
        )

    def _control(self) -> int:
        layout = MsiControl.ADDRESS_64 * self.address64 | MsiControl.MASKBIT * self.maskable
        return layout | self._log2_vectors << QMASK_SHIFT

    def _address_high(self) -> Sequence[Field]:
        row = Field("address_high", MSI_ADDRESS_HIGH, DWORD, writable=DWORD_MASK)
        return (row,) if self.address64 else ()

    def _masks(self, shift: int) -> Sequence[Field]:
        rows = (
            Field("mask", MSI_MASK_32 + shift, DWORD, writable=self._implemented),
            Field("pending", MSI_PENDING_32 + shift, DWORD, shown=self._implemented),
        )
        return rows if self.maskable else ()

    @classmethod
    def variants(cls) -> Sequence["Msi"]:
        """All four layouts, with one, four and 32 vectors."""
        flags = (False, True)
        return tuple(cls(*one) for one in product((1, 4, MSI_MAX_VECTORS), flags, flags))

    @property
    def _log2_vectors(self) -> int:
        return self.vectors.bit_length() - 1

    @property
    def _implemented(self) -> int:
        return (1 << self.vectors) - 1

    @property
    def enabled(self) -> bool:
        """The ENABLE bit as it reads."""
        return bool(self.get("control") & MsiControl.ENABLE)

    def masked(self, vector: int) -> bool:
        """True while the guest masks the vector; never for a capability that is not maskable."""
        if not 0 <= vector < self.vectors:
            raise self._no_vector(vector)
        if not self.maskable:
            return False
        # Asked for at every interrupt, so the byte is looked at where it lies.
        at = (MSI_MASK_64 if self.address64 else MSI_MASK_32) + (vector >> 3)
        return bool(self.place.values[at] >> (vector & 7) & 1)

    def pending(self, vector: int) -> bool:
        """True while the vector's pending bit is set."""
        return bool(self._bit(vector) & self._bits("pending"))

    def set_pending(self, vector: int, pending: bool) -> None:
        """Shows a raised vector that could not be sent (S2.20). Without `maskable` there is no register to show it."""
        bit = self._bit(vector)
        if self.maskable:
            self.set_bits("pending", bit, pending)

    def on_write(self, write: Write) -> None:
        """Clamps QSIZE to QMASK (S2.19) and tells the device of masks and ENABLE."""
        asked = (write.asked("control") & MsiControl.QSIZE) >> QSIZE_SHIFT
        self.set_bits("control", MsiControl.QSIZE, False)
        self.set_bits("control", min(asked, self._log2_vectors) << QSIZE_SHIFT, True)
        if write.changed("control") or (self.maskable and write.changed("mask")):
            self.port.interrupts_changed(PciIrq.MSI)

    def _bits(self, name: str) -> int:
        return self.get(name) if self.maskable else 0

    def _bit(self, vector: int) -> int:
        if not 0 <= vector < self.vectors:
            raise self._no_vector(vector)
        return 1 << vector

    def _no_vector(self, vector: int) -> LocalError:
        return LocalError(f"MSI vector must be 0 to {self.vectors - 1}, not {vector}")
