"""`vfuserver load SOCKET FILE`: a saved state into a device. How it is given: `_moving`; the file: `_saved_file`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vfuserver.cli._parameters import SAVED_FILE, SERVER_SOCKET, json_option, timeout_option


@click.command(short_help="Load a saved state into a device.")
@click.argument("socket", type=SERVER_SOCKET)
@click.argument("file", type=SAVED_FILE)
@click.option("--stop", is_flag=True, help="Leave the device stopped; otherwise it goes on as it did when saved.")
@json_option()
@timeout_option()
def command(socket: Path, file: Path, stop: bool, as_json: bool, timeout: float) -> None:
    """Load the state in FILE, written by `vfuserver save`, into the device behind SOCKET.

    Identity, sizes of regions and numbers of interrupts must be those of the saved device. What the device held is
    replaced; if its server refuses the state, or on Ctrl-C, the device is reset.

    \b
    Examples:
      vfuserver load /tmp/edu.sock edu.state
      vfuserver load /tmp/edu.sock edu.state --stop
    """
    from vfuserver.cli._interruptible import run_interruptible

    result = run_interruptible(_load(socket, file, stop, timeout))
    if as_json:
        import json

        click.echo(json.dumps(result, indent=2))
    else:
        click.echo(f"loaded {result['size']} bytes of state from {file} into {socket}; the device is {result['now']}")


async def _load(socket: Path, file: Path, stop: bool, timeout: float) -> dict[str, Any]:
    from vfuserver.cli import _moving
    from vfuserver.cli._progress import progress
    from vfuserver.cli._saved_file import SavedFile
    from vfuserver.vfio import MigrationState

    saved = SavedFile.read(file)
    after = MigrationState.STOP if stop else saved.state
    async with _moving.destination_at(socket, timeout) as destination:
        destination.must_be_like(saved.shape, f"the one in {file}")
        with progress("loading", saved.size) as advance:
            await _moving.load(destination, saved.chunks(), after, advance)
    return {"socket": str(socket), "file": str(file), "size": saved.size, "now": after.name}
