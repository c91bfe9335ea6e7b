"""What a stream says, for people: each section that can be read, of a damaged stream too, as plain data with names.

The stream alone tells most of it; where its device class is known, the declarations add what they say of a register,
a job's arguments or a capability's fields. Nothing is verified beyond what is shown, and nothing is loaded. It must
not know how it is shown.
"""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from vfuserver.device.migration import memory
from vfuserver.device.migration.parts import DEVICE, PARTS
from vfuserver.device.migration.shape import fits
from vfuserver.device.migration.stream import END, Found, scan
from vfuserver.errors import CommandError
from vfuserver.pci import registered, walk, walk_extended
from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.config_space import ConfigSpace
from vfuserver.pci.describe import FieldView, header_of
from vfuserver.pci.describe import describe as describe_config
from vfuserver.plain import decode
from vfuserver.registers import Declared, MemoryWindow
from vfuserver.vfio import PciIrq

if TYPE_CHECKING:
    from vfuserver.device.declaration import Declaration
    from vfuserver.device.pci_device import PciDevice

SHOWN: Final = 64
"""Bytes of memory that are kept to be shown, from the first that is not zero on."""
_ROW: Final = 16
_DWORD: Final = 4

Find: TypeAlias = Callable[[str], "type[PciDevice] | None"]
"""Finds the device class of what a stream says that it is of."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One section, or bytes that are none (`name` is empty): where, and what is wrong with it (empty: nothing).

    `value` is what it says, None where that cannot be read; then `raw` is how it begins.
    """

    name: str
    version: int
    optional: bool
    at: int
    size: int
    problem: str
    value: Any = None
    raw: bytes = b""


def contents(data: bytes | mmap, find: Find, start: int = 0) -> Iterator[Entry]:
    """Every section of the stream that begins at `start`, in order."""
    declared: Declaration | None = None
    for found in scan(data, start):
        entry = _entry(found, declared)
        if entry.name == DEVICE.name and entry.value is not None:
            model = find(entry.value["compatible"])
            declared = model.declaration if model is not None else None
        yield entry


def _entry(found: Found, declared: Declaration | None) -> Entry:
    section = found.section
    if section is None:
        return Entry("", 0, False, found.at, found.size, found.problem)
    value, problem, payload = None, found.problem, bytes(section.payload)
    if section.name != END:
        try:
            value = _read(section.name, section.version, payload, declared)
        except CommandError as error:
            problem = problem or str(error)
    raw = payload[:SHOWN] if value is None and section.name != END else b""
    return Entry(section.name, section.version, section.optional, found.at, found.size, problem, value, raw)


def _read(name: str, version: int, payload: bytes, declared: Declaration | None) -> Any:
    """CommandError: it is not of a kind that can be read."""
    if name == memory.SECTION and version == memory.VERSION:
        return _memory(payload)
    part = next((part for part in PARTS if (part.name, part.version) == (name, version)), None)
    if part is None:
        return None
    value = decode(payload)
    if not fits(value, part.shape):
        raise CommandError(errno.EINVAL, f"a section {name} must be another kind of data")
    return _VIEWS[name](value, declared)


# -- one view for each part, of data of its shape ---------------------------------------------------------------------


def _device(saved: Mapping[str, Any], _: Declaration | None) -> dict[str, Any]:
    bars = {
        label: {"size": size, "kind": kind, "prefetchable": prefetchable}
        for label, (size, kind, prefetchable) in saved["bars"].items()
    }
    rom = None if saved["rom"] is None else dict(zip(("size", "crc"), saved["rom"], strict=True))
    return {"compatible": saved["compatible"], "bars": bars, "options": saved["options"], "rom": rom}


def _registers(saved: Mapping[str, Any], declared: Declaration | None) -> dict[str, Any]:
    rows = {
        (bar.label, row.name, row.offset, row.size): row
        for bar in (declared.bars if declared is not None else ())
        for row in bar.rows
        if not isinstance(row, MemoryWindow)
    }
    return {
        label: {
            "registers": [
                _register(name, offset, data, rows.get((label, name, offset, len(data))))
                for name, (offset, data) in bar["rows"].items()
            ],
            "halves": bar["halves"],
            "undeclared": bar["undeclared"],
        }
        for label, bar in saved.items()
    }


def _register(name: str, offset: int, data: bytes, row: Declared | None) -> dict[str, Any]:
    """`values` has an element each; a row that nobody declares is one register if it can be, else dwords or bytes."""
    width = row.width if row is not None else _likely_width(len(data))
    seen = {"name": name, "offset": offset, "width": width, "values": _elements(data, width)}
    if row is None:
        return seen
    return {**seen, "reset": _elements(row.reset_image(name), width), "policy": row.policy_text, "doc": row.doc}


def _likely_width(size: int) -> int:
    return size if size in (1, 2, 8) else 1 if size % _DWORD else _DWORD


def _elements(data: bytes, width: int) -> list[int]:
    return [int.from_bytes(data[at : at + width], "little") for at in range(0, len(data), width)]


def _config(saved: Mapping[str, Any], declared: Declaration | None) -> dict[str, Any]:
    image, stores = saved["image"], saved["stores"]
    links = [(link, False) for link in walk(image)] + [(link, True) for link in walk_extended(image)]
    names = {(one.id, issubclass(one, ExtendedCapability)): one.__name__ for one in registered()}
    fields = _declared_fields(declared, image, [(link.offset, link.id) for link, _ in links])
    return {
        "header": _fields(header_of(image)),
        "capabilities": [
            {
                "offset": link.offset,
                "id": link.id,
                "name": names.get((link.id, extended), ""),
                "fields": fields.get(link.offset, []),
            }
            for link, extended in links
        ],
        "stores": stores,
        "image": image,
    }


def _declared_fields(
    declared: Declaration | None, image: bytes, places: list[tuple[int, int]]
) -> dict[int, list[dict[str, Any]]]:
    """The fields of each capability by its offset, where the class has the same ones at the same places."""
    space: ConfigSpace | None = declared.config_space() if declared is not None else None
    if space is None or space.size != len(image) or [(one.start, one.id) for one in space.capabilities] != places:
        return {}
    space.restore(image, {})
    return {one.offset: _fields(one.fields) for one in describe_config(space).capabilities}


def _fields(views: Iterable[FieldView]) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "offset": one.offset, "width": one.width, "value": one.value, "bits": dict(one.bits)}
        for one in views
    ]


def _state(saved: Mapping[str, Any], declared: Declaration | None) -> list[dict[str, Any]]:
    states = declared.states if declared is not None else {}
    return [
        {"name": name, "value": value, "doc": states[name].doc if name in states else ""}
        for name, value in saved.items()
    ]


def _doorbells(saved: Mapping[str, Any], _: Declaration | None) -> dict[str, Any]:
    return {name: [{"rings": rings, "value": value} for rings, value in bells] for name, bells in saved.items()}


def _interrupts(saved: Mapping[str, Any], _: Declaration | None) -> dict[str, Any]:
    names = {int(one): one.name for one in PciIrq}
    pending = {name: _bits(vectors) for name, vectors in saved["pending"].items()}
    return {**saved, "last": names.get(saved["last"], str(saved["last"])), "pending": pending}


def _bits(value: int) -> list[int]:
    return [number for number, bit in enumerate(reversed(f"{value:b}")) if bit == "1"]


def _timers(saved: Mapping[str, Any], _: Declaration | None) -> dict[str, Any]:
    return dict(saved)


def _jobs(saved: Mapping[str, Any], declared: Declaration | None) -> list[dict[str, Any]]:
    """Runs in order; `names` are those of the arguments, where the class tells."""
    jobs = declared.jobs if declared is not None else {}
    names = {name: list(inspect.signature(job.function).parameters)[1:] for name, job in jobs.items()}
    return [
        {"name": name, "arguments": arguments, "names": names.get(name, [])}
        for name, runs in saved.items()
        for arguments in runs
    ]


def _memory(payload: bytes) -> dict[str, Any]:
    """A piece of a BAR: how many of its bytes are not zero, and how it looks from the first of them on."""
    bar, offset, size = memory.place(payload)
    data = memory.content(payload)
    filled = len(data) - data.count(0)
    at = (len(data) - len(data.lstrip(b"\0"))) // _ROW * _ROW if filled else 0
    return {"bar": bar, "offset": offset, "size": size, "filled": filled, "at": offset + at, "bytes": data[at:][:SHOWN]}


_VIEWS: Final[Mapping[str, Callable[[Any, Declaration | None], Any]]] = {
    "device": _device,
    "registers": _registers,
    "config": _config,
    "state": _state,
    "doorbells": _doorbells,
    "interrupts": _interrupts,
    "timers": _timers,
    "jobs": _jobs,
}
