"""`vfuserver migrate SRC DST`: a device from one server to another. What is done in which order: `_migrating`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfuserver.cli._parameters import SERVER_SOCKET, Size, json_option, timeout_option
from vfuserver.cli._table import size

if TYPE_CHECKING:
    from vfuserver.cli._migrating import Moved, Round

ROUNDS = 16


@click.command(short_help="Move a running device to another server.")
@click.argument("source", metavar="SRC", type=SERVER_SOCKET)
@click.argument("destination", metavar="DST", type=SERVER_SOCKET)
@click.option("--rounds", type=click.IntRange(1), default=ROUNDS, metavar="N", help="Of pre-copy at most.")
@click.option("--no-pre-copy", is_flag=True, help="Stop the device before anything is copied.")
@click.option(
    "--memory", type=Size(), default=0, metavar="SIZE", help="Give it so much memory at IOVA 0, and move that."
)
@json_option()
@timeout_option()
def command(
    source: Path, destination: Path, rounds: int, no_pre_copy: bool, memory: int, as_json: bool, timeout: float
) -> None:
    """Move the state of the device behind SRC into that behind DST, any two vfio-user servers that offer migration.

    Where SRC offers pre-copy the device runs while most of its state is copied, in rounds. The blackout is the time
    for which neither runs. Afterwards SRC is stopped and DST goes on; after a failure or Ctrl-C, SRC goes on and DST
    is reset. Both must be the same device, and neither in use.

    \b
    Examples:
      vfuserver migrate /tmp/a.sock /tmp/b.sock
      vfuserver migrate /tmp/a.sock /tmp/b.sock --memory 1G --json
    """
    import json

    from vfuserver.cli._interruptible import run_interruptible
    from vfuserver.errors import UsageError

    if source.resolve() == destination.resolve():
        raise UsageError(f"SRC and DST must be two servers, not both {source}")
    moved = run_interruptible(_migrate(source, destination, 0 if no_pre_copy else rounds, memory, timeout))
    if as_json:
        click.echo(json.dumps({"source": str(source), "destination": str(destination), **asdict(moved)}, indent=2))
    else:
        for number, one in enumerate(moved.per_round, 1):
            click.echo(f"round {number} of pre-copy: {_carried(one)} in {one.seconds * 1000:.1f} ms")
        click.echo(f"moved {source} to {destination}: {_told(moved)}")
        click.echo(f"blackout {moved.blackout * 1000:.1f} ms")


async def _migrate(source: Path, destination: Path, rounds: int, memory: int, timeout: float) -> Moved:
    from vfuserver.cli import _moving
    from vfuserver.cli._migrating import Move
    from vfuserver.cli._mirror import Mirror
    from vfuserver.cli._progress import progress

    async with (
        _moving.source_at(source, timeout) as here,
        _moving.destination_at(destination, timeout) as there,
    ):
        mirror = Mirror(here.client, there.client, memory) if memory else None
        with progress("moving", await _moving.size_of(here)) as advance:
            return await Move(here, there, rounds=rounds, mirror=mirror, advance=advance).run()


def _carried(one: Round) -> str:
    return f"{one.state_bytes} bytes of state" + f", {size(one.memory_bytes)} of memory" * bool(one.memory_bytes)


def _told(moved: Moved) -> str:
    parts = [f"{moved.state_bytes} bytes of state"]
    if moved.rounds:
        parts.append(f"{moved.rounds} round{'s' * (moved.rounds > 1)} of pre-copy")
    if moved.memory_bytes:
        how = "" if moved.memory_logged else ", not logged by the server"
        parts.append(f"{size(moved.memory_bytes)} of memory{how}")
    return ", ".join(parts)
