"""The Process Address Space ID extended capability, PASID (PCIe 5.0, 7.8.8): 8 bytes.

The control register is stored; vfio-user's DMA carries no PASID, so nothing follows from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final

from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.caps.pci_express import ONE_PREFIX
from vfuserver.pci.checks import require_range
from vfuserver.pci.fields import WORD, Field

PASID_ID: Final = 0x001B
PASID_CAPABILITY: Final = 0x04
PASID_CONTROL: Final = 0x06
PASID_WIDTH_SHIFT: Final = 8
WIDEST: Final = 20


class PasidCapability(IntEnum):
    """+4 (7.8.8.2)."""

    EXECUTE = 0x0002
    PRIVILEGED = 0x0004
    WIDTH = 0x1F00


class PasidControl(IntEnum):
    """+6 (7.8.8.3)."""

    ENABLE = 0x0001
    EXECUTE = 0x0002
    PRIVILEGED = 0x0004


@dataclass(frozen=True)
class ProcessAddressSpace(ExtendedCapability, id=PASID_ID):
    """`width`: bits of a PASID, 0 to 20. `execute`, `privileged`: the function can ask for these permissions."""

    implies: ClassVar[int] = ONE_PREFIX

    width: int = WIDEST
    execute: bool = False
    privileged: bool = False

    def __post_init__(self) -> None:
        require_range("ProcessAddressSpace.width", self.width, 0, WIDEST)

    def body(self) -> Sequence[Field]:
        """Capability, and the enables of what it has."""
        capability = PasidCapability.EXECUTE * self.execute | PasidCapability.PRIVILEGED * self.privileged
        enables = PasidControl.EXECUTE * self.execute | PasidControl.PRIVILEGED * self.privileged
        width = self.width << PASID_WIDTH_SHIFT
        return (
            Field("capability", PASID_CAPABILITY, WORD, reset=capability | width, bits=PasidCapability),
            Field("control", PASID_CONTROL, WORD, writable=enables | PasidControl.ENABLE, bits=PasidControl),
        )

    @classmethod
    def variants(cls) -> Sequence["ProcessAddressSpace"]:
        """The plain one, and one with both permissions."""
        return (cls(), cls(execute=True, privileged=True))
