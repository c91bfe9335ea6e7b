"""Configuration spaces for the tests of this folder, behind a port that drives a gate and records what it is told."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from vfuserver._core import Gate
from vfuserver.pci import AnyCapability, BarKind, BarLayout, Command, ConfigSpace, GatePort, PciIdentity, PowerState
from vfuserver.pci.caps.pci_express import PciExpress
from vfuserver.vfio import Later, PciIrq, ResetReason

Events = list[tuple[object, ...]]
Make = Callable[..., ConfigSpace]

TESTDEV = PciIdentity(0x1234, 0x7E57, 1, 0xFF0000, 0x1234, 0x0001)
BARS = (
    BarLayout(0, 0x1000),
    BarLayout(1, 0x1000),
    BarLayout(2, 0x10_0000, BarKind.MEMORY64, prefetchable=True),
    BarLayout(4, 0x1000),
    BarLayout(5, 0x100, BarKind.IO),
)


class RecordingPort(GatePort):
    """A device that resets itself when asked, and remembers every call."""

    def __init__(self, events: Events) -> None:
        super().__init__(Gate())
        self.events = events
        self.config: ConfigSpace | None = None

    def enables_changed(self, old: Command, new: Command) -> None:
        self.events.append(("enables", old, new))
        super().enables_changed(old, new)

    def power_changed(self, old: PowerState, new: PowerState) -> None:
        self.events.append(("power", old, new))

    def interrupts_changed(self, index: PciIrq) -> None:
        self.events.append(("interrupts", index))

    def reset_requested(self, reason: ResetReason) -> Later | None:
        self.events.append(("reset", reason))
        if self.config is not None:
            self.config.reset()
        return None


@pytest.fixture
def events() -> Events:
    return []


@pytest.fixture
def port(events: Events) -> RecordingPort:
    return RecordingPort(events)


@pytest.fixture
def gate(port: RecordingPort) -> Gate:
    return port.gate


@pytest.fixture
def make(port: RecordingPort) -> Make:
    """Makes a configuration space with testdev's identity and BARs unless others are given."""

    def build(*capabilities: AnyCapability, bars: Sequence[BarLayout] = BARS, **more: Any) -> ConfigSpace:
        port.config = ConfigSpace(TESTDEV, bars, capabilities, port=port, **more)
        return port.config

    return build


@pytest.fixture
def extended(make: Make) -> Make:
    """As make, with PCI Express in front of the capabilities, so that extended ones have room."""

    def build(*capabilities: AnyCapability, **more: Any) -> ConfigSpace:
        return make(PciExpress(), *capabilities, **more)

    return build
