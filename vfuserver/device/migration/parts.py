"""What is in a device's stream besides its memory: parts, each with its own section.

A part knows how to save itself as plain data, what that must look like, what may stand against loading it, and how to
set it; the last must not fail. What a class declares anew since a stream was saved has its power-on value after a
load; what it no longer declares, or otherwise, is refused. It must not know how a stream is laid out.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Final

from vfuserver.device.activity import MOST_RUNS
from vfuserver.device.migration.shape import fits
from vfuserver.device.state import is_plain
from vfuserver.errors import LocalError
from vfuserver.registers import MemoryWindow
from vfuserver.vfio import PciIrq

if TYPE_CHECKING:
    from vfuserver.device.bar import BoundBar
    from vfuserver.device.pci_device import PciDevice

Problems = Iterator[str]
RINGS_LIMIT: Final = 1 << 64
"""What an eventfd can count to."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part: `save(device)` gives plain data of `shape`; `check(device, saved)` says what stands against it, and
    `put(device, saved)` sets it, into a device whose every part has its power-on value."""

    name: str
    shape: Any
    save: Callable[[PciDevice], Any]
    check: Callable[[PciDevice, Any], Problems]
    put: Callable[[PciDevice, Any], None]
    version: int = 1

    def problems(self, device: PciDevice, saved: Any) -> list[str]:
        """What stands against loading it; nothing: put() will not fail."""
        if not fits(saved, self.shape):
            return [f"the section {self.name} must be another kind of data"]
        return list(self.check(device, saved))


# -- what it is of ----------------------------------------------------------------------------------------------------


def _save_device(device: PciDevice) -> dict[str, Any]:
    rom = device.rom_image
    return {
        "compatible": device.stream_name(),
        "bars": {
            bar.declared.label: [bar.declared.size, bar.declared.place.kind.name, bar.declared.place.prefetchable]
            for bar in device.bars.values()
        },
        "options": {name: getattr(device, name) for name in device.declaration.options},
        "rom": None if rom is None else [rom.layout.size, zlib.crc32(rom.content)],
    }


def _check_device(device: PciDevice, saved: Mapping[str, Any]) -> Problems:
    own = _save_device(device)
    if saved["compatible"] != own["compatible"]:
        yield f"it is of a {saved['compatible']}, must be of a {own['compatible']}"
        return
    yield from _differences("option", own["options"], saved["options"])
    yield from _differences("", own["bars"], saved["bars"])
    if saved["rom"] != own["rom"]:
        yield "the expansion ROM must be the same one (its size and CRC differ)"


def _differences(what: str, own: Mapping[str, Any], saved: Mapping[str, Any]) -> Problems:
    for name in {**own, **saved}:
        here, there = own.get(name, "absent"), saved.get(name, "absent")
        if type(here) is not type(there) or here != there:
            yield f"{what} {name} must be {here!r}, not {there!r}".strip()


# -- configuration space ----------------------------------------------------------------------------------------------


def _save_config(device: PciDevice) -> dict[str, Any]:
    return {"image": device.config.image, "stores": device.config.saved()}


def _check_config(device: PciDevice, saved: Mapping[str, Any]) -> Problems:
    yield from device.config.unlike(saved["image"], saved["stores"])


def _put_config(device: PciDevice, saved: Mapping[str, Any]) -> None:
    device.config.restore(saved["image"], saved["stores"])


# -- registers --------------------------------------------------------------------------------------------------------


def _save_registers(device: PciDevice) -> dict[str, Any]:
    saved = {bar.declared.label: _save_bar(bar) for bar in device.bars.values()}
    return {label: parts for label, parts in saved.items() if any(parts.values())}


def _save_bar(bar: BoundBar) -> dict[str, Any]:
    rows = [row for row in bar.declared.rows if not isinstance(row, MemoryWindow)]
    halves = {row.name: bar.table.latched(row.index) for row in rows}
    return {
        "rows": {row.name: [row.offset, bar.table.snapshot(row.index)] for row in rows},
        "halves": {name: half for name, half in halves.items() if half is not None},
        "undeclared": bar.undeclared,
    }


def _check_registers(device: PciDevice, saved: Mapping[str, Any]) -> Problems:
    bars = {bar.declared.label: bar for bar in device.bars.values()}
    for label, parts in saved.items():
        if label not in bars:
            yield f"there is no {label}"
            continue
        rows = {row.name: row for row in bars[label].declared.rows if not isinstance(row, MemoryWindow)}
        for name, (offset, data) in parts["rows"].items():
            row = rows.get(name)
            if row is None or (row.offset, row.size) != (offset, len(data)):
                here = f"{row.size} bytes at {row.offset:#x}" if row is not None else "absent"
                yield f"the register {label} {name} must be {here}, not {len(data)} bytes at {offset:#x}"
        for name, half in parts["halves"].items():
            if name not in rows or not getattr(rows[name], "split", None) or not 0 <= half < 1 << 64:
                yield f"the register {label} {name} must not wait for a half"
        if not 0 <= parts["undeclared"] < 1 << 64:
            yield f"{label} must have a count of undeclared accesses, not {parts['undeclared']}"


def _put_registers(device: PciDevice, saved: Mapping[str, Any]) -> None:
    for bar in device.bars.values():
        parts = saved.get(bar.declared.label, {"rows": {}, "halves": {}, "undeclared": 0})
        rows = {row.name: row.index for row in bar.declared.rows}
        for name, (_, data) in parts["rows"].items():
            bar.table.restore(rows[name], data)
        for name, half in parts["halves"].items():
            bar.table.latch(rows[name], half)
        bar.table.undeclared = parts["undeclared"]


# -- State ------------------------------------------------------------------------------------------------------------


def _save_state(device: PciDevice) -> dict[str, Any]:
    values = vars(device)
    for name, state in device.declaration.states.items():
        if not state.fits(values[name]):
            raise LocalError(
                f"{device.name}.{name} must be plain data of type {type(state.default).__name__} to be saved, "
                f"not {type(values[name]).__name__}"
            )
    return {name: values[name] for name in device.declaration.states}


def _check_state(device: PciDevice, saved: Mapping[str, Any]) -> Problems:
    states = device.declaration.states
    for name, value in saved.items():
        if name not in states:
            yield f"there is no State {name}"
        elif not states[name].fits(value):
            yield f"the State {name} must be {type(states[name].default).__name__}, not {type(value).__name__}"
    yield from _own_check(device, saved)


def _own_check(device: PciDevice, saved: Mapping[str, Any]) -> Problems:
    """The model's own invariants; whatever it raises stands against the load."""
    try:
        device.check_load(deepcopy(dict(saved)))
    except Exception as error:
        yield f"check_load() of the model: {error}"


def _put_state(device: PciDevice, saved: Mapping[str, Any]) -> None:
    device.__dict__.update(saved)


# -- what was rung, what is pending, what is to come ------------------------------------------------------------------


def _save_doorbells(device: PciDevice) -> dict[str, Any]:
    return {name: [list(one) for one in rings] for name, rings in device.io_events.snapshot().items()}


def _check_doorbells(device: PciDevice, saved: Mapping[str, Any]) -> Problems:
    widths = {name: (len(bells), bells[0].size) for name, bells in device.io_events.by_name.items()}
    for name, rings in saved.items():
        count, size = widths.get(name, (0, 0))
        if len(rings) != count:
            yield f"the Doorbell {name} must have {count} registers, not {len(rings)}"
        elif not all(0 <= held < RINGS_LIMIT and 0 <= value < 1 << 8 * size for held, value in rings):
            yield f"the Doorbell {name} must have values of {size} bytes"


def _put_doorbells(device: PciDevice, saved: Mapping[str, Any]) -> None:
    device.io_events.restore({name: saved.get(name, []) for name in device.declaration.doorbells})


def _save_interrupts(device: PciDevice) -> dict[str, Any]:
    saved = device.interrupts.snapshot()
    pending = {index.name: saved[index.name.lower()] for index in device.interrupts.vectors}
    return {"intx": saved["intx"], "last": saved["last"], "written": saved["written"], "pending": pending}


def _check_interrupts(device: PciDevice, saved: Mapping[str, Any]) -> Problems:
    own = device.interrupts
    counts = {index.name: vectors.count for index, vectors in own.vectors.items()}
    if saved["pending"].keys() != counts.keys():
        yield f"interrupts must be {', '.join(counts) or 'INTx'}, not {', '.join(saved['pending']) or 'INTx'}"
    for name, pending in saved["pending"].items():
        if not 0 <= pending < 1 << counts.get(name, 0):
            yield f"{name} must have {counts.get(name, 0)} vectors, not {pending.bit_length()}"
    if saved["intx"] and own.line is None:
        yield "there is no INTx line to be asserted"
    if saved["last"] not in (PciIrq.INTX, *own.vectors):
        yield f"the interrupt index in use must be one of the device's, not {saved['last']}"
    entries = own.vectors[PciIrq.MSIX].count if own.table is not None else 0
    if not all(0 <= vector < entries for vector in saved["written"]):
        yield f"the MSI-X table must have {entries} entries"


def _put_interrupts(device: PciDevice, saved: Mapping[str, Any]) -> None:
    pending = {name.lower(): bits for name, bits in saved["pending"].items()}
    device.interrupts.restore({**pending, "intx": saved["intx"], "last": saved["last"], "written": saved["written"]})


def _save_timers(device: PciDevice) -> dict[str, Any]:
    left = {name: vars(device)[name].left() for name in device.declaration.timers}
    return {name: None if seconds is None else float(seconds) for name, seconds in left.items()}


def _check_timers(device: PciDevice, saved: Mapping[str, Any]) -> Problems:
    for name, left in saved.items():
        if name not in device.declaration.timers:
            yield f"there is no timer {name}"
        elif left is not None and not (math.isfinite(left) and left >= 0):
            yield f"the timer {name} must have 0 seconds or more left, not {left}"


def _put_timers(device: PciDevice, saved: Mapping[str, Any]) -> None:
    for name, left in saved.items():
        vars(device)[name].restore(left)


def _save_jobs(device: PciDevice) -> dict[str, Any]:
    return {name: vars(device)[name].saved() for name in device.declaration.jobs}


def _check_jobs(device: PciDevice, saved: Mapping[str, Any]) -> Problems:
    for name, runs in saved.items():
        job = device.declaration.jobs.get(name)
        if job is None:
            yield f"there is no job {name}"
        elif len(runs) > (MOST_RUNS if job.several else 1):
            yield f"the job {name} must run once, not {len(runs)} times"
        else:
            yield from (f"the job {name} cannot be started with {args!r}" for args in _unstartable(job.function, runs))
    if sum(map(len, saved.values())) > MOST_RUNS:
        yield f"at most {MOST_RUNS} jobs can run"


def _unstartable(function: Callable[..., Any], runs: Iterable[list[Any]]) -> Iterator[list[Any]]:
    for args in runs:
        try:
            signature(function).bind(None, *args)
        except TypeError:
            yield args
        else:
            if not is_plain(args):
                yield args


def _put_jobs(device: PciDevice, saved: Mapping[str, Any]) -> None:
    for name, runs in saved.items():
        for args in runs:
            vars(device)[name].start_with(tuple(args))


_BAR: Final = {"rows": {str: (int, bytes)}, "halves": {str: int}, "undeclared": int}
_INTERRUPTS: Final = {"intx": bool, "last": int, "written": [int], "pending": {str: int}}
_DEVICE: Final = {
    "compatible": str,
    "bars": {str: (int, str, bool)},
    "options": {str: object},
    "rom": frozenset((None, (int, int))),
}

DEVICE: Final = Part("device", _DEVICE, _save_device, _check_device, lambda device, saved: None)
"""What a stream is of: its first section."""

PARTS: Final = (
    DEVICE,
    Part("registers", {str: _BAR}, _save_registers, _check_registers, _put_registers),
    Part("config", {"image": bytes, "stores": {int: bytes}}, _save_config, _check_config, _put_config),
    Part("state", {str: object}, _save_state, _check_state, _put_state),
    Part("doorbells", {str: [(int, int)]}, _save_doorbells, _check_doorbells, _put_doorbells),
    Part("interrupts", _INTERRUPTS, _save_interrupts, _check_interrupts, _put_interrupts),
    Part("timers", {str: frozenset((None, float))}, _save_timers, _check_timers, _put_timers),
    Part("jobs", {str: [[object]]}, _save_jobs, _check_jobs, _put_jobs),
)
"""In the order in which they are saved and set: interrupts after the configuration space that shows them, and last
what may act."""
