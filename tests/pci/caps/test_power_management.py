from collections.abc import Callable

import pytest

from vfuserver._core import Gate
from vfuserver.pci import Command, ConfigSpace, PowerState
from vfuserver.pci.caps.power_management import PmControl, PowerManagement
from vfuserver.vfio import ResetReason

Make = Callable[..., ConfigSpace]
Events = list[tuple[object, ...]]

CONTROL = 0x44
EVERY_STATE = PowerManagement(d1=True, d2=True, no_soft_reset=True)
LEGAL = {(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3), (2, 0), (2, 3), (3, 0)}


def state_of(config: ConfigSpace) -> PowerState:
    return PowerState(config.read(CONTROL, 2) & PmControl.STATE)


def test_power_management_is_eight_bytes() -> None:
    """S2.9."""
    assert EVERY_STATE.length == 8


@pytest.mark.parametrize("to", PowerState)
@pytest.mark.parametrize("start", PowerState)
def test_state_written_follows_the_arcs_of_the_specification(make: Make, start: PowerState, to: PowerState) -> None:
    """S2.23: state bits are never stored raw (PCI PM 1.2, figure 5-1)."""
    config = make(EVERY_STATE)
    config.write(CONTROL, 2, start)
    config.write(CONTROL, 2, to)
    assert state_of(config) == (to if (start, to) in LEGAL else start)


@pytest.mark.parametrize("state", [PowerState.D1, PowerState.D2])
def test_state_not_advertised_ignored(make: Make, events: Events, state: PowerState) -> None:
    """S2.23: D1 and D2 only if advertised."""
    config = make(PowerManagement())
    config.write(CONTROL, 2, state)
    assert state_of(config) is PowerState.D0
    assert events == []


@pytest.mark.parametrize("command", [0, Command.MEMORY])
@pytest.mark.parametrize("state", PowerState)
def test_memory_enabled_needs_bit_and_state_above_d3hot(make: Make, state: PowerState, command: int) -> None:
    """S0.6: truth table of COMMAND's MEMORY bit and the power state."""
    config = make(EVERY_STATE)
    config.write(4, 2, command)
    config.write(CONTROL, 2, state)
    assert config.memory_enabled is (bool(command) and state is not PowerState.D3_HOT)


def test_d3hot_closes_gate_and_d0_opens_it_again(make: Make, gate: Gate) -> None:
    """S0.6: in D3hot nothing answers; COMMAND keeps its value."""
    config = make(PowerManagement(no_soft_reset=True))
    config.write(4, 2, 7)
    config.write(CONTROL, 1, PowerState.D3_HOT)
    assert (gate.word, config.command) == (Gate.RUNNING, Command(7))
    config.write(CONTROL, 1, PowerState.D0)
    assert gate.word == Gate.RUNNING | Gate.IO | Gate.MEMORY | Gate.MASTER


def test_d3hot_to_d0_without_no_soft_reset_asks_for_reset(make: Make, events: Events) -> None:
    """S2.23: the soft reset; the gate does not open in between."""
    config = make(PowerManagement())
    config.write(4, 2, 2)
    config.write(CONTROL, 2, PowerState.D3_HOT)
    events.clear()
    config.write(CONTROL, 2, PowerState.D0)
    assert events == [("reset", ResetReason.POWER), ("power", PowerState.D3_HOT, PowerState.D0)]
    assert config.image == config.reset_image


def test_d3hot_to_d0_with_no_soft_reset_keeps_everything(make: Make, events: Events) -> None:
    config = make(PowerManagement(no_soft_reset=True))
    config.write(0x3C, 1, 11)
    config.write(CONTROL, 2, PowerState.D3_HOT)
    config.write(CONTROL, 2, PowerState.D0)
    assert config.read(0x3C, 1) == 11
    assert [event[0] for event in events] == ["power", "power"]


def test_reset_in_d3hot_ends_in_d0(make: Make, events: Events) -> None:
    """S2.30: PM D0 after a reset, and the device is told."""
    config = make(PowerManagement())
    config.write(CONTROL, 2, PowerState.D3_HOT)
    events.clear()
    config.reset()
    assert state_of(config) is PowerState.D0
    assert events == [("power", PowerState.D3_HOT, PowerState.D0)]


def test_reset_in_d0_tells_of_no_power_change(make: Make, events: Events) -> None:
    make(PowerManagement()).reset()
    assert events == []


def test_state_untouched_by_write_to_the_other_byte(make: Make) -> None:
    config = make(PowerManagement(no_soft_reset=True))
    config.write(CONTROL, 2, PowerState.D3_HOT)
    config.write(CONTROL + 1, 1, 0)
    assert state_of(config) is PowerState.D3_HOT


def test_pme_status_cleared_by_writing_one(make: Make) -> None:
    """S2.23: PME_STATUS is write-1-to-clear."""
    config = make(PowerManagement(pme=(PowerState.D3_HOT,)))
    power = config.find(PowerManagement)
    assert power is not None
    power.set_bits("control", PmControl.PME_STATUS, True)
    config.write(CONTROL, 2, PmControl.PME_ENABLE)
    assert config.read(CONTROL, 2) == PmControl.PME_STATUS | PmControl.PME_ENABLE
    config.write(CONTROL, 2, PmControl.PME_STATUS)
    assert config.read(CONTROL, 2) == 0


def test_pme_enable_without_pme_stays_clear(make: Make) -> None:
    config = make(PowerManagement())
    config.write(CONTROL, 2, PmControl.PME_ENABLE)
    assert config.read(CONTROL, 2) == 0


@pytest.mark.parametrize(("declared", "pmc"), [(PowerManagement(), 0x0003), (EVERY_STATE, 0x0603)])
def test_capabilities_show_what_is_declared(make: Make, declared: PowerManagement, pmc: int) -> None:
    assert make(declared).read(0x42, 2) == pmc
