"""`vfuserver save SOCKET FILE`: a device's state into a file. How it is taken: `_moving`; the file: `_saved_file`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vfuserver.cli._parameters import SAVED_FILE, SERVER_SOCKET, json_option, timeout_option


@click.command(short_help="Save a device's state into a file.")
@click.argument("socket", type=SERVER_SOCKET)
@click.argument("file", type=SAVED_FILE)
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--stop", is_flag=True, help="Leave the device stopped; otherwise it goes on as before.")
@json_option()
@timeout_option()
def command(socket: Path, file: Path, force: bool, stop: bool, as_json: bool, timeout: float) -> None:
    """Save the state of the device behind SOCKET, anybody's vfio-user server that offers migration, into FILE.

    The device is stopped while it is copied. FILE appears when it is whole; after a failure or Ctrl-C there is none,
    and the device goes on. A server takes one client at a time, so the device must not be in use.

    \b
    Examples:
      vfuserver save /tmp/edu.sock edu.state
      vfuserver save /tmp/edu.sock edu.state --stop --force
    """
    from vfuserver.cli._interruptible import run_interruptible

    result = run_interruptible(_save(socket, file, force, stop, timeout))
    if as_json:
        import json

        click.echo(json.dumps(result, indent=2))
    else:
        click.echo(f"saved {result['size']} bytes of state of {socket} in {file}; the device is {result['now']}")


async def _save(socket: Path, file: Path, force: bool, stop: bool, timeout: float) -> dict[str, Any]:
    from vfuserver.cli import _moving
    from vfuserver.cli._progress import progress
    from vfuserver.cli._saved_file import NewFile
    from vfuserver.vfio import MigrationState

    async with _moving.source_at(socket, timeout) as source:
        about = {"shape": source.shape, "state": source.state.name, "flags": [str(one.name) for one in source.flags]}
        after = MigrationState.STOP if stop else source.state
        with NewFile(file, about, replace=force) as new, progress("saving", await _moving.size_of(source)) as advance:

            def write(piece: memoryview) -> None:
                new.write(piece)
                advance(len(piece))

            async with _moving.going_on_after_failure(source):
                await _moving.save(source, write)
                new.finish()
        await _moving.go_on(source, after)
        return {
            "socket": str(socket),
            "file": str(file),
            "size": new.size,
            "state": source.state.name,
            "now": after.name,
        }
