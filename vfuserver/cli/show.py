"""`vfuserver show FILE`: what a saved state is of, and what is in it. The file: `_saved_file`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfuserver.cli._parameters import SAVED_FILE, json_option
from vfuserver.cli._table import table

if TYPE_CHECKING:
    from vfuserver.cli._saved_file import SavedFile


@click.command(short_help="Show what is in a saved state.")
@click.argument("file", type=SAVED_FILE)
@json_option()
def command(file: Path, as_json: bool) -> None:
    """Show what device the state in FILE is of, and check that the file is whole.

    \b
    Examples:
      vfuserver show edu.state
      vfuserver show edu.state --json
    """
    from vfuserver.cli._saved_file import SavedFile

    saved = SavedFile.read(file)
    if as_json:
        import json

        click.echo(json.dumps(_plain(saved), indent=2))
    else:
        click.echo("\n".join(_lines(saved)))


def _plain(saved: SavedFile) -> dict[str, Any]:
    return {
        "file": str(saved.path),
        "shape": saved.shape,
        "state": saved.state.name,
        "flags": saved.flags,
        "size": saved.size,
        "crc": saved.crc,
    }


def _lines(saved: SavedFile) -> Iterator[str]:
    from vfuserver.cli._shape import rows

    yield f"{saved.path}: {saved.size} bytes of state, CRC-32 {saved.crc:08x}"
    yield f"Saved while {saved.state.name}, by a server that offers {' '.join(saved.flags)}"
    yield from ("", "Device")
    yield table(("WHAT", "VALUE"), rows(saved.shape), "  ")
