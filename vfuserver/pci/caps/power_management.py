"""The Power Management capability (PCI PM 1.2, 3.2; PCIe 5.0, 7.5.2): D0 and D3hot, D1 and D2 where advertised.

State bits are never stored as written. A transition that the table below lacks is dropped. In D3hot the function
answers configuration accesses only (S0.6). From D3hot to D0 the device is reset, unless it says that it keeps its
state (S2.23).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vfuserver.pci.block import Write
from vfuserver.pci.capability import Capability
from vfuserver.pci.fields import BYTE, WORD, Field
from vfuserver.pci.port import ENABLES, NO_COMMAND, Command, PowerState
from vfuserver.vfio import Later, ResetReason

PM_ID: Final = 0x01
PM_CAPABILITIES: Final = 0x02
PM_CONTROL: Final = 0x04
PM_BRIDGE: Final = 0x06
PM_DATA: Final = 0x07

VERSION_1_2: Final = 3


class PmCapabilities(IntEnum):
    """PMC, +2."""

    VERSION = 0x0007
    PME_CLOCK = 0x0008
    DSI = 0x0020
    AUX_CURRENT = 0x01C0
    D1 = 0x0200
    D2 = 0x0400
    PME_D0 = 0x0800
    PME_D1 = 0x1000
    PME_D2 = 0x2000
    PME_D3_HOT = 0x4000
    PME_D3_COLD = 0x8000


class PmControl(IntEnum):
    """PMCSR, +4."""

    STATE = 0x0003
    NO_SOFT_RESET = 0x0008
    PME_ENABLE = 0x0100
    PME_STATUS = 0x8000


_PME: Final = {
    PowerState.D0: PmCapabilities.PME_D0,
    PowerState.D1: PmCapabilities.PME_D1,
    PowerState.D2: PmCapabilities.PME_D2,
    PowerState.D3_HOT: PmCapabilities.PME_D3_HOT,
}

_ARCS: Final = {
    PowerState.D0: {PowerState.D1, PowerState.D2, PowerState.D3_HOT},
    PowerState.D1: {PowerState.D0, PowerState.D2, PowerState.D3_HOT},
    PowerState.D2: {PowerState.D0, PowerState.D3_HOT},
    PowerState.D3_HOT: {PowerState.D0},
}
"""Transitions that software may ask for (PCI PM 1.2, 5.5, figure 5-1)."""


@dataclass(frozen=True)
class PowerManagement(Capability, id=PM_ID):
    """`d1`, `d2`: the function has these states. `no_soft_reset`: it keeps its state from D3hot to D0.
    `pme`: the states from which it can signal PME."""

    d1: bool = False
    d2: bool = False
    no_soft_reset: bool = False
    pme: tuple[PowerState, ...] = ()

    def body(self) -> Sequence[Field]:
        """PMC, PMCSR; bridge extensions and data are not implemented and read zero."""
        enable = PmControl.PME_ENABLE if self.pme else 0
        return (
            Field("pmc", PM_CAPABILITIES, WORD, reset=self._capabilities(), bits=PmCapabilities),
            Field(
                "control",
                PM_CONTROL,
                WORD,
                reset=PmControl.NO_SOFT_RESET if self.no_soft_reset else 0,
                writable=enable,
                clear=PmControl.PME_STATUS,
                hooked=PmControl.STATE,
                bits=PmControl,
                meanings=((PmControl.STATE, PowerState),),
            ),
            Field("bridge", PM_BRIDGE, BYTE),
            Field("data", PM_DATA, BYTE),
        )

    def _capabilities(self) -> int:
        states = PmCapabilities.D1 * self.d1 | PmCapabilities.D2 * self.d2
        return VERSION_1_2 | states | sum(_PME[state] for state in set(self.pme))

    @classmethod
    def variants(cls) -> Sequence["PowerManagement"]:
        """The plain one, and one with everything."""
        return (cls(), cls(d1=True, d2=True, no_soft_reset=True, pme=tuple(PowerState)))

    @property
    def state(self) -> PowerState:
        """The function's power state."""
        return PowerState(self.get("control") & PmControl.STATE)

    def permits(self) -> Command:
        """Nothing in D3hot: neither BARs nor DMA nor interrupts (S0.6)."""
        return NO_COMMAND if self.state is PowerState.D3_HOT else ENABLES

    def on_write(self, write: Write) -> Later | None:
        """Performs the transition that was asked for; one that resets the function is over when the reset is."""
        later = None
        asked = PowerState(write.asked("control") & PmControl.STATE)
        if asked in _ARCS[self.state] and self._has(asked):
            if self.state is PowerState.D3_HOT and not self.no_soft_reset:
                later = self.port.reset_requested(ResetReason.POWER)
            self._enter(asked)
        return later

    def on_reset(self, before: bytes) -> None:
        """A reset ends in D0."""
        old = PowerState(self.layout["control"].load(before) & PmControl.STATE)
        if old is not PowerState.D0:
            self.port.power_changed(old, PowerState.D0)

    def _has(self, state: PowerState) -> bool:
        return {PowerState.D1: self.d1, PowerState.D2: self.d2}.get(state, True)

    def _enter(self, state: PowerState) -> None:
        old = self.state
        if state is not old:
            self.set_bits("control", PmControl.STATE, False)
            self.set_bits("control", state, True)
            self.port.power_changed(old, state)
