"""The Latency Tolerance Reporting extended capability, LTR (PCIe 5.0, 7.8.2): 8 bytes.

Software writes down what the platform can bear; an emulated function sends no LTR messages, so the values are stored
and nothing follows from them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final

from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.caps.pci_express import DeviceCapabilities2
from vfuserver.pci.fields import WORD, Field

LTR_ID: Final = 0x0018
LTR_MAX_SNOOP: Final = 0x04
LTR_MAX_NO_SNOOP: Final = 0x06


class MaxLatency(IntEnum):
    """+4 and +6 (7.8.2.2, 7.8.2.3): nanoseconds, times 32 to the power of the scale."""

    VALUE = 0x03FF
    SCALE = 0x1C00


LATENCY_WRITABLE: Final = MaxLatency.VALUE | MaxLatency.SCALE


@dataclass(frozen=True)
class LatencyTolerance(ExtendedCapability, id=LTR_ID):
    """Both registers are zero after reset."""

    implies: ClassVar[int] = DeviceCapabilities2.LTR

    def body(self) -> Sequence[Field]:
        """The largest latency of snooped and of other requests."""
        return (
            Field("max_snoop", LTR_MAX_SNOOP, WORD, writable=LATENCY_WRITABLE, bits=MaxLatency),
            Field("max_no_snoop", LTR_MAX_NO_SNOOP, WORD, writable=LATENCY_WRITABLE, bits=MaxLatency),
        )
