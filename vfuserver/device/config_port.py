"""The device as its configuration space sees it: the gate follows COMMAND, DMA that it no longer lets through has ended
before the write is answered, unmasked interrupts are sent, resets run.

It must not know configuration space's bytes.
"""

from typing import Protocol

from vfuserver._core import Gate
from vfuserver.device.dma import Dma
from vfuserver.device.interrupts import Interrupts
from vfuserver.pci.port import Command, GatePort
from vfuserver.vfio import Later, PciIrq, ResetReason


class Resettable(Protocol):
    """What the port needs of a device."""

    gate: Gate
    dma: Dma
    interrupts: Interrupts

    def reset(self, reason: ResetReason) -> Later | None:
        """The device's one reset."""


class DevicePort(GatePort):
    """The port of one device."""

    def __init__(self, device: Resettable) -> None:
        super().__init__(device.gate)
        self._device = device

    def enables_changed(self, old: Command, new: Command) -> None:
        """The gate follows; where bus mastering ends, copies under way are waited for (S2.33)."""
        super().enables_changed(old, new)
        if Command.MASTER in old & ~new:
            self._device.dma.drain()

    def interrupts_changed(self, index: PciIrq) -> None:
        """Sends what is no longer masked."""
        self._device.interrupts.changed(index)

    def reset_requested(self, reason: ResetReason) -> Later | None:
        """Resets the device, its configuration space included."""
        return self._device.reset(reason)
