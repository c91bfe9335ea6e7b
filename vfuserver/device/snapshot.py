"""Everything that a device class declares, as plain data: what a load, an upgrade or a test puts back.

The layout of the saved data: {"registers": {"BAR0": {name: bytes}}, "state": {name: plain}, "jobs": {name: [args]},
"timers": {name: seconds or None}, "doorbells": {name: [(rings, value)]}, "interrupts": {...}}. Configuration space is
not in it. It must not know formats.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from vfuserver.errors import CommandError

if TYPE_CHECKING:
    from vfuserver.device.pci_device import PciDevice


def take(device: PciDevice) -> dict[str, Any]:
    """What the device remembers at this moment. LocalError for a State that is no longer plain data."""
    declared = device.declaration
    values = vars(device)
    return {
        "registers": {bar.declared.label: bar.snapshot() for bar in device.bars.values()},
        "state": {name: state.saved(values[name], device.name) for name, state in declared.states.items()},
        "jobs": {name: values[name].saved() for name in declared.jobs},
        "timers": {name: values[name].left() for name in declared.timers},
        "doorbells": device.io_events.snapshot(),
        "interrupts": device.interrupts.snapshot(),
    }


def put(device: PciDevice, saved: Mapping[str, Any]) -> None:
    """Sets a device to what take() gave; jobs start again. CommandError(EINVAL) before any effect if names differ."""
    declared = device.declaration
    values = vars(device)
    own = {
        "registers": {bar.declared.label for bar in device.bars.values()},
        "state": set(declared.states),
        "jobs": set(declared.jobs),
        "timers": set(declared.timers),
        "doorbells": set(declared.doorbells),
    }
    for part, names in own.items():
        _check_names(device.name, part, names, saved.get(part))
    for bar in device.bars.values():
        bar.restore(saved["registers"][bar.declared.label], f"{device.name} {bar.declared.label}")
    for name, value in saved["state"].items():
        kind = type(declared.states[name].default)
        values[name] = bytearray(value) if kind is bytearray else deepcopy(value)
    device.io_events.restore(saved["doorbells"])
    device.interrupts.restore(saved["interrupts"])
    for name, left in saved["timers"].items():
        values[name].restore(left)
    for name, runs in saved["jobs"].items():
        for args in runs:
            values[name].start_with(tuple(args))


def _check_names(device: str, part: str, own: set[str], given: object) -> None:
    names = set(given) if isinstance(given, Mapping) else set()
    if names != own:
        differing = ", ".join(sorted(names ^ own)) or part
        raise CommandError(errno.EINVAL, f"{device}: the saved {part} are of another device: {differing}")
