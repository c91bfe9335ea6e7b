"""`vfuserver qemu-args`: what QEMU is told. The topology makes the words; QEMU itself is not needed."""

from pathlib import Path

import click

from vfuserver.cli._parameters import device_argument, json_option, topology_option
from vfuserver.errors import UsageError


@click.command(short_help="Print what QEMU is told.")
@device_argument()
@click.argument("socket", type=click.Path(path_type=Path, dir_okay=False))
@topology_option("q35-shared")
@json_option("Print the words as a JSON array instead of one line for a shell.")
def command(device: str, socket: Path, topology: str, as_json: bool) -> None:
    """Print QEMU's arguments for a machine with DEVICE, served at SOCKET.

    They say how memory is shared and where the device is, and nothing about kernels, disks or displays: add them to
    your own command line of a qemu-system-x86_64 >= 10.1.

    \b
    Examples:
      vfuserver qemu-args edu /tmp/edu.sock
      eval qemu-system-x86_64 $(vfuserver qemu-args edu /tmp/edu.sock) -nographic disk.img
    """
    import json
    import shlex

    from vfuserver.cli._qemu import qemu_id
    from vfuserver.device import load
    from vfuserver.guest.topology import Plug, load_topology, qemu_args

    chosen = load_topology(topology)
    if chosen.relay:
        raise UsageError(
            f"{topology} needs a relay between QEMU and the server, which `vfuserver run` starts: use that"
        )
    words = qemu_args(chosen, [Plug(qemu_id(load(device).device_name), socket)])
    click.echo(json.dumps(words) if as_json else shlex.join(words))
