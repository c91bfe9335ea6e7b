"""What is in a stream of a vfuserver device, as text and ready for JSON. What it says: `device.migration.contents`.

It must not know files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vfuserver.cli._table import size, table

if TYPE_CHECKING:
    from vfuserver.device.migration.contents import Entry

Lines = Iterator[str]
LONGEST: Final = 72
"""Characters of one value."""
WIDEST: Final = 64
"""Bits of a number that JSON has as one; wider ones are text, in hexadecimal."""
_ROW: Final = 16
_END: Final = "end"
_MEMORY: Final = "memory"


def lines(entries: Iterable[Entry]) -> Lines:
    """Text for people: a title for each section, and what it says. Pieces of memory are summed up."""
    memory: list[Entry] = []
    for one in entries:
        if memory and one.name != _MEMORY:
            yield from _memory(memory)
            memory = []
        if one.name == _MEMORY and one.value is not None:
            memory.append(one)
        elif one.name != _END or one.problem:
            yield from ("", _title(one))
            yield from _SECTIONS.get(one.name, _unknown)(one.value) if one.value is not None else _unknown(one.raw)
    if memory:
        yield from _memory(memory)


def plain(value: Any) -> Any:
    """Data that JSON has: bytes in hexadecimal; numbers that are too wide or none, and keys, as text."""
    match value:
        case bytes() | bytearray():
            return value.hex()
        case int() if value.bit_length() > WIDEST:
            return hex(value)
        case float() if not math.isfinite(value):
            return str(value)
        case list() | tuple():
            return [plain(item) for item in value]
        case Mapping():
            return {key if isinstance(key, str) else shown(key): plain(item) for key, item in value.items()}
    return value


def shown(value: object) -> str:
    """One value on one line, as Python writes it, cut where it gets long; bytes in hexadecimal."""
    text = f"{size(len(value))}: {value[:LONGEST].hex()}" if isinstance(value, bytes | bytearray) else _written(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _written(value: object) -> str:
    match value:
        case str() | bytes() | bytearray():
            return repr(value[: LONGEST + 1])
        case int() if value.bit_length() > WIDEST:
            return hex(value)
        case list() | tuple():
            open_, close = "[]" if isinstance(value, list) else "()"
            return f"{open_}{', '.join(map(_written, value[:LONGEST]))}{close}"
        case Mapping():
            return f"{{{', '.join(f'{_written(key)}: {_written(item)}' for key, item in value.items())}}}"
    return str(value)


def name(text: str) -> str:
    """A name from a stream, which may be any text."""
    return text if text.isprintable() else repr(text)


def dump(data: bytes, start: int = 0) -> Lines:
    """Rows of 16 bytes; those that are zero are left out."""
    for at in range(0, len(data), _ROW):
        row = data[at : at + _ROW]
        if any(row):
            text = "".join(chr(one) if 0x20 <= one < 0x7F else "." for one in row)
            yield f"    {start + at:06x}  {row.hex(' ').ljust(3 * _ROW)} {text}"


def _title(one: Entry) -> str:
    what = f"{name(one.name)}, {size(one.size)} at {one.at:#x}" if one.name else f"At {one.at:#x}"
    version = f", version {one.version}" if one.version > 1 else ""
    return f"{what}{version}{', optional' * one.optional}{': ' * bool(one.problem)}{one.problem}"


# -- sections ---------------------------------------------------------------------------------------------------------


def _device(value: Mapping[str, Any]) -> Lines:
    rows = [("compatible", name(value["compatible"]))]
    rows += [
        (name(label), f"{size(bar['size'])}, {name(bar['kind'].lower())}{', prefetchable' * bar['prefetchable']}")
        for label, bar in value["bars"].items()
    ]
    rows += [(f"option {name(key)}", shown(one)) for key, one in value["options"].items()]
    rows += [("ROM", f"{size(rom['size'])}, CRC-32 {rom['crc']:08x}") for rom in [value["rom"]] if rom]
    yield table(("WHAT", "VALUE"), rows, "  ")


def _registers(value: Mapping[str, Any]) -> Lines:
    for label, bar in value.items():
        yield f"  {name(label)}"
        heads = ("OFFSET", "BYTES", "VALUE", "RESET", "REGISTER", "WHAT")
        yield table(heads, map(_register, bar["registers"]), "    ")
        for register, half in bar["halves"].items():
            yield f"    {name(register)} waits for its other half; the one that was written is {half:#x}"
        if bar["undeclared"]:
            yield f"    {bar['undeclared']} accesses to what nobody declared"


def _register(one: Mapping[str, Any]) -> Sequence[object]:
    values, reset, width = one["values"], one.get("reset"), one["width"]
    label = name(one["name"]) + f"[{len(values)}]" * (len(values) > 1)
    changed = _numbers(reset, width) if reset not in (None, values) else ""
    return f"{one['offset']:#06x}", width * len(values), _numbers(values, width), changed, label, one.get("doc", "")


def _numbers(values: Sequence[int], width: int) -> str:
    """Elements of an array; the same one many times is written once."""
    if len(values) > 1 and len(set(values)) == 1:
        return f"{len(values)} x {values[0]:#x}"
    digits = 2 * width
    text = f"{values[0]:#x}" if len(values) == 1 else " ".join(f"{one:0{digits}x}" for one in values)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _config(value: Mapping[str, Any]) -> Lines:
    yield "  Header"
    yield from _fields(value["header"])
    for one in value["capabilities"]:
        yield f"  {one['offset']:#05x} {one['name'] or 'capability'} (id {one['id']:#04x})"
        yield from _fields(one["fields"])
    for at, store in value["stores"].items():
        yield f"  Stored by what is at {at:#05x}: {size(len(store))}"
        yield from dump(store)
    yield "  Bytes"
    yield from dump(value["image"])


def _fields(fields: Iterable[Mapping[str, Any]]) -> Lines:
    """Those that are not zero."""
    rows = [
        (f"{one['offset']:#04x}", f"{one['value']:#0{2 + 2 * one['width']}x}", one["name"], _bits(one["bits"]))
        for one in fields
        if one["value"]
    ]
    if rows:
        yield table(("OFFSET", "VALUE", "FIELD", "BITS"), rows, "    ")


def _bits(bits: Mapping[str, int | str]) -> str:
    set_ = ((key, part) for key, part in bits.items() if part)
    return " ".join(key if part == 1 else f"{key}={part}" for key, part in set_)


def _state(value: Sequence[Mapping[str, Any]]) -> Lines:
    rows = [(name(one["name"]), shown(one["value"]), one["doc"]) for one in value]
    yield table(("STATE", "VALUE", "WHAT"), rows, "  ") if rows else "  none"


def _doorbells(value: Mapping[str, Any]) -> Lines:
    rows = [
        (name(key) + f"[{at}]" * (len(bells) > 1), bell["rings"], f"{bell['value']:#x}")
        for key, bells in value.items()
        for at, bell in enumerate(bells)
    ]
    yield table(("DOORBELL", "RINGS", "VALUE"), rows, "  ") if rows else "  none"


def _interrupts(value: Mapping[str, Any]) -> Lines:
    rows = [("INTx", "asserted" if value["intx"] else "not asserted"), ("armed last", value["last"])]
    rows += [(f"{name(key)} pending", _vectors(vectors)) for key, vectors in value["pending"].items()]
    rows += [("MSI-X entries written", _vectors(value["written"]))] if value["written"] else []
    yield table(("WHAT", "VALUE"), rows, "  ")


def _vectors(vectors: Sequence[int]) -> str:
    text = ", ".join(map(str, vectors[:LONGEST])) or "none"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _timers(value: Mapping[str, float | None]) -> Lines:
    rows = [(name(key), "not armed" if left is None else f"{left:g} s left") for key, left in value.items()]
    yield table(("TIMER", "STATE"), rows, "  ") if rows else "  none"


def _jobs(value: Sequence[Mapping[str, Any]]) -> Lines:
    for one in value:
        names = [f"{key}=" for key in one["names"]] + [""] * len(one["arguments"])
        arguments = ", ".join(f"{key}{shown(argument)}" for key, argument in zip(names, one["arguments"], strict=False))
        yield f"  {name(one['name'])}({arguments})"
    if not value:
        yield "  none"


def _unknown(value: Any) -> Lines:
    """Of a section that cannot be read: how it begins."""
    yield from dump(value)


def _memory(entries: Sequence[Entry]) -> Lines:
    """Pieces that follow each other as one."""
    yield from ("", f"memory, {len(entries)} section{'s' * (len(entries) > 1)} from {entries[0].at:#x} on")
    for one in entries:
        if one.problem:
            yield f"  the one at {one.at:#x}: {one.problem}"
    for run in _runs([one.value for one in entries]):
        first, bytes_, filled = run[0], sum(one["size"] for one in run), sum(one["filled"] for one in run)
        zeros = "all zero" if not filled else f"{filled} bytes not zero" if filled < bytes_ else "no zeros"
        yield f"  BAR{first['bar']} from {first['offset']:#x}: {size(bytes_)}, {zeros}"
        begins = next((one for one in run if one["filled"]), None)
        if begins is not None:
            yield from dump(begins["bytes"], begins["at"])


def _runs(pieces: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    run: list[Mapping[str, Any]] = []
    for one in pieces:
        if run and (run[-1]["bar"], run[-1]["offset"] + run[-1]["size"]) != (one["bar"], one["offset"]):
            yield run
            run = []
        run.append(one)
    if run:
        yield run


_SECTIONS: Final[Mapping[str, Callable[[Any], Lines]]] = {
    "device": _device,
    "registers": _registers,
    "config": _config,
    "state": _state,
    "doorbells": _doorbells,
    "interrupts": _interrupts,
    "timers": _timers,
    "jobs": _jobs,
}
