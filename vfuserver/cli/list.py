"""`vfuserver list`: the devices that can be named. It must not know what a device is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from vfuserver.cli._parameters import json_option
from vfuserver.cli._table import table

if TYPE_CHECKING:
    from vfuserver.device import Listed


@click.command(short_help="List the devices there are.")
@json_option()
def command(as_json: bool) -> None:
    """List the devices that can be served.

    Built-in devices and those of other installed packages (entry points of the group vfuserver.devices). A class of
    your own needs no entry: name it as path/to/file.py:Class. "x 2" after an id: a card with two functions.

    \b
    Examples:
      vfuserver list
      vfuserver list --json
    """
    import json
    from dataclasses import asdict

    from vfuserver.device import list_devices

    devices = list_devices()
    if as_json:
        click.echo(json.dumps([asdict(one) for one in devices], indent=2))
        return
    rows = [(one.name, _id(one), one.origin, one.error or one.doc) for one in devices]
    click.echo(table(("NAME", "ID", "ORIGIN", "WHAT IT IS"), rows))


def _id(one: Listed) -> str:
    functions = f" x {one.functions}" if one.functions > 1 else ""
    return f"{one.vendor:04x}:{one.device:04x}{functions}" if one.vendor else "-"
