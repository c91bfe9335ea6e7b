"""What opens and closes memory: every combination, every trigger, and that each change is told once."""

from collections.abc import Callable
from itertools import product

import pytest

from tests.pci.conftest import Events
from vfuserver.pci import AnyCapability, Command, ConfigSpace, PowerState
from vfuserver.pci.caps.advanced_features import AdvancedFeatures
from vfuserver.pci.caps.pci_express import PciExpress
from vfuserver.pci.caps.power_management import PowerManagement

Make = Callable[..., ConfigSpace]

NONE = Command(0)
MEM = int(Command.MEMORY)


def block(config: ConfigSpace, kind: type[AnyCapability]) -> int:
    found = config.find(kind)
    assert found is not None
    return found.start


def power(config: ConfigSpace, state: PowerState) -> None:
    config.write(block(config, PowerManagement) + 4, 2, state)


TRIGGERS: dict[str, Callable[[ConfigSpace], object]] = {
    "COMMAND": lambda config: config.write(4, 2, 0),
    "COMMAND by a byte": lambda config: config.write(4, 1, 0),
    "D3hot": lambda config: power(config, PowerState.D3_HOT),
    "FLR": lambda config: config.write(block(config, PciExpress) + 9, 1, 0x80),
    "AF FLR": lambda config: config.write(block(config, AdvancedFeatures) + 4, 1, 1),
    "reset": lambda config: config.reset(),
}


def told(events: Events) -> list[bool]:
    """Each time the port was told of memory: whether it is enabled now."""
    changes = [event[1:] for event in events if event[0] == "enables"]
    return [Command.MEMORY in new for old, new in changes if (old ^ new) & Command.MEMORY]  # type: ignore[operator]


@pytest.fixture
def config(make: Make) -> ConfigSpace:
    return make(PowerManagement(no_soft_reset=True), PciExpress(flr=True), AdvancedFeatures())


@pytest.mark.parametrize(
    ("bit", "always", "state"), [*product((0, MEM), (NONE, Command.MEMORY), (PowerState.D0, PowerState.D3_HOT))]
)
def test_memory_is_enabled_by_bit_or_declaration_and_above_d3hot(
    make: Make, bit: int, always: Command, state: PowerState
) -> None:
    """S0.6: the truth table over COMMAND, functions that do not need it, and power."""
    config = make(PowerManagement(no_soft_reset=True), always=always)
    config.write(4, 2, bit)
    power(config, state)
    assert config.memory_enabled is ((bool(bit) or bool(always)) and state is PowerState.D0)


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_each_trigger_ends_memory_once_and_only_command_brings_it_back(
    config: ConfigSpace, events: Events, trigger: str
) -> None:
    """S0.7: one change for one cause, none for a repeated one, and none back before memory is enabled again."""
    config.write(4, 2, MEM)
    for _ in range(3):
        TRIGGERS[trigger](config)
    assert told(events) == [True, False]
    power(config, PowerState.D0)
    assert told(events) == [True, False] + [True] * (trigger == "D3hot")
    for _ in range(3):
        config.write(4, 2, MEM)
    assert told(events) == [True, False, True]


def test_what_leaves_memory_alone_tells_nothing(config: ConfigSpace, events: Events) -> None:
    """S0.7: other bits of COMMAND, the same value again, D0 in D0."""
    config.write(4, 2, MEM)
    config.write(4, 2, MEM | Command.MASTER)
    config.write(5, 1, 4)
    power(config, PowerState.D0)
    assert told(events) == [True]
