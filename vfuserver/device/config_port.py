"""The device as its configuration space sees it: the gate follows COMMAND, unmasked interrupts are sent, resets run.

It must not know configuration space's bytes.
"""

from typing import Protocol

from vfuserver._core import Gate
from vfuserver.device.interrupts import Interrupts
from vfuserver.pci.port import GatePort
from vfuserver.vfio import Later, PciIrq, ResetReason


class Resettable(Protocol):
    """What the port needs of a device."""

    gate: Gate
    interrupts: Interrupts

    def reset(self, reason: ResetReason) -> Later | None:
        """The device's one reset."""


class DevicePort(GatePort):
    """The port of one device."""

    def __init__(self, device: Resettable) -> None:
        super().__init__(device.gate)
        self._device = device

    def interrupts_changed(self, index: PciIrq) -> None:
        """Sends what is no longer masked."""
        self._device.interrupts.changed(index)

    def reset_requested(self, reason: ResetReason) -> Later | None:
        """Resets the device, its configuration space included."""
        return self._device.reset(reason)
