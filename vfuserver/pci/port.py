"""What configuration space tells the device it belongs to: the `ConfigPort`, and the plain one that drives a gate.

Configuration space decides nothing about memory, DMA or interrupts; it says what has changed, after its bytes say so.
It must not know registers, devices or sessions.
"""

from enum import IntEnum, IntFlag
from typing import Final, Protocol

from vfuserver._core import Gate
from vfuserver.vfio import Later, PciIrq, ResetReason


class Command(IntFlag):
    """Bits of the COMMAND register, 0x04 (PCI 3.0, 6.2.2; PCIe 5.0, 7.5.1.1.3)."""

    IO = 1 << 0
    MEMORY = 1 << 1
    MASTER = 1 << 2
    PARITY_RESPONSE = 1 << 6
    SERR_ENABLE = 1 << 8
    INTX_DISABLE = 1 << 10


ENABLES: Final = Command.IO | Command.MEMORY | Command.MASTER
"""The COMMAND bits that let the function answer and act."""

NO_COMMAND: Final = Command(0)


class PowerState(IntEnum):
    """PowerState of PMCSR, bits 1:0 (PCI PM 1.2, 3.2.4). D3 here is D3hot."""

    D0 = 0
    D1 = 1
    D2 = 2
    D3_HOT = 3


class ConfigPort(Protocol):
    """The device, as its configuration space sees it. Calls come from within a configuration write or a reset."""

    def enables_changed(self, old: Command, new: Command) -> None:
        """What the function may do has changed: IO, MEMORY and MASTER of COMMAND as far as the power state lets them
        through (S0.6, S2.15)."""

    def power_changed(self, old: PowerState, new: PowerState) -> None:
        """The function's power state has changed (S2.23)."""

    def interrupts_changed(self, index: PciIrq) -> None:
        """What masks this interrupt index may have changed (INTX_DISABLE, MSI masks, MSI-X's MASKALL, bus mastering):
        what is pending and no longer masked is due now (S2.16, S2.20, S2.21)."""

    def reset_requested(self, reason: ResetReason) -> Later | None:
        """The guest asks for a reset through a capability. The device resets itself, ConfigSpace.reset() included,
        before it returns; with a Later, the reset is complete, and the write is answered, when that is (S2.23, S2.26).
        """


class GatePort:
    """The port that keeps one device's gate in step with its configuration space, and does nothing else.

    A device derives from it, or puts one inside its own port.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._bits = {Command.IO: gate.IO, Command.MEMORY: gate.MEMORY, Command.MASTER: gate.MASTER}

    def enables_changed(self, old: Command, new: Command) -> None:
        """Copies IO, MEMORY and MASTER into the gate."""
        self.gate.clear(self._gate_bits(ENABLES & ~new))
        self.gate.set(self._gate_bits(new))

    def power_changed(self, old: PowerState, new: PowerState) -> None:
        """Nothing: the enables say what the state allows."""

    def interrupts_changed(self, index: PciIrq) -> None:
        """Nothing: a gate holds no interrupts."""

    def reset_requested(self, reason: ResetReason) -> Later | None:
        """Nothing: a gate has no state to reset."""
        return None

    def _gate_bits(self, command: Command) -> int:
        return sum(gate_bit for bit, gate_bit in self._bits.items() if bit in command)
