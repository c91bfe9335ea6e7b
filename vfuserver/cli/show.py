"""`vfuserver show FILE`: what a saved state is of, and what is in it, as far as a damaged file can be read.

The file: `_saved_file`; what the stream says: `device.migration.contents`; how that is written: `_contents`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from vfuserver.cli._parameters import SAVED_FILE, complete_devices, json_option
from vfuserver.cli._table import table

if TYPE_CHECKING:
    from vfuserver.cli._saved_file import SavedFile
    from vfuserver.device import PciDevice
    from vfuserver.device.migration.contents import Entry

SHOWN: Final = 256
"""Bytes of a state that only its own server can read."""


@click.command(short_help="Show what is in a saved state.")
@click.argument("file", type=SAVED_FILE)
@click.option(
    "--device",
    metavar="DEVICE",
    shell_complete=complete_devices,
    help="Whose declarations say more; by default those of the installed device that the state is of.",
)
@json_option()
def command(file: Path, device: str | None, as_json: bool) -> int:
    """Show what device the state in FILE is of, check that the file is whole, and show every section of the state.

    What the state of another server than vfuserver means only that server knows: then its bytes are shown. Of a
    damaged file whatever can be read is shown, and the exit code is 1.

    \b
    Examples:
      vfuserver show edu.state
      vfuserver show camera.state --device camera.py:Camera --json
    """
    from vfuserver.cli._failures import FAILURE, complain

    seen = _look(file, device)
    if as_json:
        import json

        click.echo(json.dumps(_plain(file, seen), indent=2))
    else:
        click.echo("\n".join(_lines(file, seen)))
    for problem in seen.problems:
        complain(problem)
    return FAILURE if seen.problems else 0


@dataclass(slots=True)
class _Seen:
    """What was found: the file's head, the sections, and whose declarations name them. `foreign`: how a stream
    begins that has no sections that we know."""

    saved: SavedFile | None
    problems: list[str]
    entries: list[Entry] = field(default_factory=list)
    foreign: bytes = b""
    declarations: str | None = None


def _look(file: Path, device: str | None) -> _Seen:
    from vfuserver.cli._saved_file import examine, mapped
    from vfuserver.device.migration.contents import contents
    from vfuserver.device.migration.stream import MAGIC

    remains = examine(file, MAGIC)
    seen = _Seen(remains.saved, [remains.problem] if remains.problem else [])
    find = _finder(device)

    def find_and_note(compatible: str) -> type[PciDevice] | None:
        found = find(compatible)
        seen.declarations = (device or f"{found.__module__}:{found.__qualname__}") if found else None
        return found

    with mapped(file) as data:
        if not remains.problem and data[remains.start :][: len(MAGIC)] != MAGIC:
            seen.foreign = data[remains.start : remains.start + SHOWN]
        else:
            seen.entries = list(contents(data, find_and_note, remains.start))
    seen.problems += [f"{_where(one)}: {one.problem}" for one in seen.entries if one.problem]
    return seen


def _finder(device: str | None) -> Callable[[str], type[PciDevice] | None]:
    """UsageError: the DEVICE that was named is another one."""
    from vfuserver.device import function_classes, load_compatible, load_model
    from vfuserver.errors import UsageError

    if device is None:
        return load_compatible
    named = {one.stream_name(): one for one in function_classes(load_model(device)).values()}

    def find(compatible: str) -> type[PciDevice]:
        if compatible not in named:
            raise UsageError(f"the state is of a {compatible}, must be of a {' or '.join(named)} for {device}")
        return named[compatible]

    return find


def _where(one: Entry) -> str:
    return f"the section {one.name!r} at {one.at:#x}" if one.name else f"at {one.at:#x}"


def _plain(file: Path, seen: _Seen) -> dict[str, Any]:
    from vfuserver.cli._contents import plain

    about: dict[str, Any] = {"file": str(file)}
    if saved := seen.saved:
        about |= {"shape": saved.shape, "state": saved.state.name, "flags": saved.flags}
        about |= {"size": saved.size, "crc": saved.crc}
    about |= {"problems": seen.problems, "declarations": seen.declarations}
    if seen.foreign:
        return {**about, "begins": seen.foreign.hex()}
    return {**about, "sections": [plain(asdict(one)) for one in seen.entries]}


def _lines(file: Path, seen: _Seen) -> Iterator[str]:
    from vfuserver.cli._contents import dump, lines
    from vfuserver.cli._shape import rows

    if saved := seen.saved:
        yield f"{file}: {saved.size} bytes of state, CRC-32 {saved.crc:08x}"
        yield f"Saved while {saved.state.name}, by a server that offers {' '.join(saved.flags)}"
        yield from ("", "Device")
        yield table(("WHAT", "VALUE"), rows(saved.shape), "  ")
    else:
        yield f"{file}: a stream without the head of `vfuserver save`"
    if seen.foreign:
        yield from ("", "The state is not of a vfuserver device: only its server knows what it means. It begins with")
        yield from dump(seen.foreign)
        return
    told = seen.declarations or "none: no installed device is of this kind (--device names one)"
    yield from ("", f"Declarations: {told}")
    yield from lines(seen.entries)
