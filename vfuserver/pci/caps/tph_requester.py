"""The TPH Requester extended capability (PCIe 5.0, 7.9.13): steering hints for the function's own requests.

Its steering tag table, where it has one, lies in the capability (S2.9: the length is computed) or in the MSI-X table.
Tags are stored; vfio-user's DMA carries no hints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vfuserver.errors import DeclarationError
from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.checks import require_range
from vfuserver.pci.fields import BYTE_MASK, DWORD, WORD, WORD_MASK, Field

TPH_ID: Final = 0x0017
TPH_CAPABILITY: Final = 0x04
TPH_CONTROL: Final = 0x08
TPH_TABLE: Final = 0x0C
TABLE_LOCATION_SHIFT: Final = 9
TABLE_SIZE_SHIFT: Final = 16
LARGEST_TABLE: Final = 64
LARGEST_TABLE_IN_MSI_X: Final = 2048

VARIANT_TAGS: Final = 5


class TphTable(IntEnum):
    """Where the steering tag table is (7.9.13.2)."""

    NONE = 0
    CAPABILITY = 1
    MSI_X = 2


class TphCapability(IntEnum):
    """+4 (7.9.13.2)."""

    NO_TABLE_MODE = 0x0000_0001
    INTERRUPT_VECTOR_MODE = 0x0000_0002
    DEVICE_SPECIFIC_MODE = 0x0000_0004
    EXTENDED = 0x0000_0100
    TABLE_LOCATION = 0x0000_0600
    TABLE_SIZE = 0x07FF_0000


class TphControl(IntEnum):
    """+8 (7.9.13.3)."""

    MODE = 0x0000_0007
    ENABLE = 0x0000_0100
    EXTENDED_ENABLE = 0x0000_0200


@dataclass(frozen=True)
class TphRequester(ExtendedCapability, id=TPH_ID):
    """`interrupt_vector`, `device_specific`: modes besides that without a table. `extended`: 16-bit steering tags.
    `table`: where the tags are, and `tags` how many: 1 to 64, in the MSI-X table to 2048."""

    interrupt_vector: bool = False
    device_specific: bool = False
    extended: bool = False
    table: TphTable = TphTable.NONE
    tags: int = 0

    def __post_init__(self) -> None:
        if self.table is TphTable.NONE and self.tags:
            raise DeclarationError(f"TphRequester.tags must be 0 without a table, not {self.tags}")
        if self.table is not TphTable.NONE:
            largest = LARGEST_TABLE if self.table is TphTable.CAPABILITY else LARGEST_TABLE_IN_MSI_X
            require_range("TphRequester.tags", self.tags, 1, largest)

    def body(self) -> Sequence[Field]:
        """Capability, control, and the table if it is here."""
        enables = TphControl.ENABLE | TphControl.EXTENDED_ENABLE * self.extended
        return (
            Field(
                "capability",
                TPH_CAPABILITY,
                DWORD,
                reset=self._capability(),
                bits=TphCapability,
                meanings=((TphCapability.TABLE_LOCATION, TphTable),),
            ),
            Field("control", TPH_CONTROL, DWORD, writable=enables | TphControl.MODE, bits=TphControl),
            *self._tags(),
        )

    def _capability(self) -> int:
        modes = (
            TphCapability.NO_TABLE_MODE
            | TphCapability.INTERRUPT_VECTOR_MODE * self.interrupt_vector
            | TphCapability.DEVICE_SPECIFIC_MODE * self.device_specific
            | TphCapability.EXTENDED * self.extended
        )
        size = max(self.tags - 1, 0) << TABLE_SIZE_SHIFT
        return modes | self.table << TABLE_LOCATION_SHIFT | size

    def _tags(self) -> Sequence[Field]:
        if self.table is not TphTable.CAPABILITY:
            return ()
        mask = WORD_MASK if self.extended else BYTE_MASK
        return tuple(Field(f"tag_{tag}", TPH_TABLE + WORD * tag, WORD, writable=mask) for tag in range(self.tags))

    @classmethod
    def variants(cls) -> Sequence["TphRequester"]:
        """Without a table, with one of each place."""
        here = cls(True, True, table=TphTable.CAPABILITY, tags=VARIANT_TAGS)
        extended = cls(True, extended=True, table=TphTable.CAPABILITY, tags=LARGEST_TABLE)
        return (cls(), here, extended, cls(True, table=TphTable.MSI_X, tags=LARGEST_TABLE_IN_MSI_X))
