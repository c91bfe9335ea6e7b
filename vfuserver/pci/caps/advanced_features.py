"""The Advanced Features capability, AF (PCI ECN Advanced Capabilities for Conventional PCI): 6 bytes.

It gives a conventional function what PCI Express has in its device registers: a function level reset that runs before
the write is answered (S2.26), and a sign of transactions under way, of which there are none when a reset is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vfuserver.pci.block import Write
from vfuserver.pci.capability import Capability
from vfuserver.pci.fields import BYTE, Field
from vfuserver.vfio import Later, ResetReason

AF_ID: Final = 0x13
AF_LENGTH: Final = 0x02
AF_CAPABILITIES: Final = 0x03
AF_CONTROL: Final = 0x04
AF_STATUS: Final = 0x05
AF_BYTES: Final = 6


class AfCapabilities(IntEnum):
    """+3."""

    TRANSACTIONS_PENDING = 0x01
    FLR = 0x02


class AfControl(IntEnum):
    """+4."""

    INITIATE_FLR = 0x01


class AfStatus(IntEnum):
    """+5."""

    TRANSACTIONS_PENDING = 0x01


@dataclass(frozen=True)
class AdvancedFeatures(Capability, id=AF_ID):
    """`flr`: the function has a function level reset; without it the control bit is ignored."""

    flr: bool = True

    def body(self) -> Sequence[Field]:
        """Length, what there is, the reset bit, the status."""
        features = AfCapabilities.TRANSACTIONS_PENDING | AfCapabilities.FLR if self.flr else 0
        reset = AfControl.INITIATE_FLR if self.flr else 0
        return (
            Field("length", AF_LENGTH, BYTE, reset=AF_BYTES),
            Field("capabilities", AF_CAPABILITIES, BYTE, reset=features, bits=AfCapabilities),
            Field("control", AF_CONTROL, BYTE, hooked=reset, bits=AfControl),
            Field("status", AF_STATUS, BYTE, bits=AfStatus),
        )

    @classmethod
    def variants(cls) -> Sequence["AdvancedFeatures"]:
        """With and without the reset."""
        return (cls(), cls(flr=False))

    def on_write(self, write: Write) -> Later | None:
        """Runs the function level reset; the bit itself always reads 0 (S2.26)."""
        if self.flr and write.asked("control") & AfControl.INITIATE_FLR:
            return self.port.reset_requested(ResetReason.FLR)
        return None
