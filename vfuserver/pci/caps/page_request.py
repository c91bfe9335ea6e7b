"""The Page Request extended capability, PRI (PCIe 5.0, 10.5.2): 16 bytes.

ENABLE is stored, STOPPED is its opposite because an emulated function never has requests under way, RESET does nothing
and reads 0. vfio-user has no page requests to send.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vfuserver.pci.block import Write
from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.checks import require_range
from vfuserver.pci.fields import DWORD, DWORD_MASK, WORD, Field

PRI_ID: Final = 0x0013
PRI_CONTROL: Final = 0x04
PRI_STATUS: Final = 0x06
PRI_CAPACITY: Final = 0x08
PRI_ALLOCATION: Final = 0x0C
VARIANT_CAPACITY: Final = 512


class PriControl(IntEnum):
    """+4 (10.5.2.2)."""

    ENABLE = 0x0001
    RESET = 0x0002


class PriStatus(IntEnum):
    """+6 (10.5.2.3)."""

    RESPONSE_FAILURE = 0x0001
    UNEXPECTED_GROUP = 0x0002
    STOPPED = 0x0100
    PASID_REQUIRED = 0x8000


PRI_ERRORS: Final = PriStatus.RESPONSE_FAILURE | PriStatus.UNEXPECTED_GROUP


@dataclass(frozen=True)
class PageRequest(ExtendedCapability, id=PRI_ID):
    """`capacity`: page requests that the function can have outstanding. `pasid_required`: responses carry the PASID."""

    capacity: int = 1
    pasid_required: bool = False

    def __post_init__(self) -> None:
        require_range("PageRequest.capacity", self.capacity, 0, DWORD_MASK)

    def body(self) -> Sequence[Field]:
        """Control, status, how many requests there may be and how many software grants."""
        status = PriStatus.STOPPED | PriStatus.PASID_REQUIRED * self.pasid_required
        return (
            Field("control", PRI_CONTROL, WORD, writable=PriControl.ENABLE, hooked=PriControl.RESET, bits=PriControl),
            Field("status", PRI_STATUS, WORD, reset=status, clear=PRI_ERRORS, hooked=PriStatus.STOPPED, bits=PriStatus),
            Field("capacity", PRI_CAPACITY, DWORD, reset=self.capacity),
            Field("allocation", PRI_ALLOCATION, DWORD, writable=DWORD_MASK),
        )

    @classmethod
    def variants(cls) -> Sequence["PageRequest"]:
        """The plain one, and one that needs PASIDs."""
        return (cls(), cls(VARIANT_CAPACITY, pasid_required=True))

    def on_write(self, write: Write) -> None:
        """STOPPED follows ENABLE."""
        self.set_bits("status", PriStatus.STOPPED, not self.get("control") & PriControl.ENABLE)
