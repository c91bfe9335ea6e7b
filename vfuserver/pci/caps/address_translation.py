"""The Address Translation Service extended capability, ATS (PCIe 5.0, 10.5.1): 8 bytes.

The control register is stored. A device's DMA goes through the client's mappings whatever it says: vfio-user has no
translation requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.checks import require_range
from vfuserver.pci.fields import WORD, Field

ATS_ID: Final = 0x000F
ATS_CAPABILITY: Final = 0x04
ATS_CONTROL: Final = 0x06
DEEPEST_QUEUE: Final = 32


class AtsCapability(IntEnum):
    """+4 (10.5.1.2)."""

    QUEUE_DEPTH = 0x001F
    PAGE_ALIGNED = 0x0020
    GLOBAL_INVALIDATE = 0x0040


class AtsControl(IntEnum):
    """+6 (10.5.1.3)."""

    SMALLEST_UNIT = 0x001F
    ENABLE = 0x8000


@dataclass(frozen=True)
class AddressTranslation(ExtendedCapability, id=ATS_ID):
    """`queue_depth`: invalidate requests that the function takes before it throttles, 1 to 32.

    `page_aligned`: untranslated addresses are always whole pages. `global_invalidate`: it has that bit with PASIDs.
    """

    queue_depth: int = DEEPEST_QUEUE
    page_aligned: bool = True
    global_invalidate: bool = False

    def __post_init__(self) -> None:
        require_range("AddressTranslation.queue_depth", self.queue_depth, 1, DEEPEST_QUEUE)

    def body(self) -> Sequence[Field]:
        """Capability and control. A depth of 32 is written as 0."""
        flags = (
            AtsCapability.PAGE_ALIGNED * self.page_aligned | AtsCapability.GLOBAL_INVALIDATE * self.global_invalidate
        )
        capability = flags | self.queue_depth % DEEPEST_QUEUE
        control = AtsControl.SMALLEST_UNIT | AtsControl.ENABLE
        return (
            Field("capability", ATS_CAPABILITY, WORD, reset=capability, bits=AtsCapability),
            Field("control", ATS_CONTROL, WORD, writable=control, bits=AtsControl),
        )

    @classmethod
    def variants(cls) -> Sequence["AddressTranslation"]:
        """The deepest queue, and the shallowest with everything."""
        return (cls(), cls(queue_depth=1, page_aligned=False, global_invalidate=True))
