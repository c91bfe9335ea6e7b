"""`vfuserver qemu-args`: what QEMU is told. The topology makes the words; QEMU itself is not needed."""

from collections.abc import Sequence
from pathlib import Path

import click

from vfuserver.cli._parameters import device_argument, json_option, topology_option
from vfuserver.errors import UsageError


@click.command(short_help="Print what QEMU is told.")
@device_argument()
@click.argument(
    "sockets", metavar="SOCKET...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False)
)
@topology_option("q35-shared")
@json_option("Print the words as a JSON array instead of one line for a shell.")
def command(device: str, sockets: Sequence[Path], topology: str, as_json: bool) -> None:
    """Print QEMU's arguments for a machine with DEVICE, served at SOCKET; a card has a SOCKET for each function.

    They say how memory is shared and where the device is, and nothing about kernels, disks or displays: add them to
    your own command line of a qemu-system-x86_64 >= 10.1.

    \b
    Examples:
      vfuserver qemu-args edu /tmp/edu.sock
      vfuserver qemu-args idio-pair /tmp/f0.sock /tmp/f1.sock
      eval qemu-system-x86_64 $(vfuserver qemu-args edu /tmp/edu.sock) -nographic disk.img
    """
    import json
    import shlex

    from vfuserver.cli._serving import plugs, require_places
    from vfuserver.device import load_model
    from vfuserver.guest.topology import load_topology, qemu_args

    chosen = load_topology(topology)
    if chosen.relay:
        raise UsageError(
            f"{topology} needs a relay between QEMU and the server, which `vfuserver run` starts: use that"
        )
    model = load_model(device)
    require_places(model, len(sockets))
    words = qemu_args(chosen, plugs(model, model.device_name, sockets))
    click.echo(json.dumps(words) if as_json else shlex.join(words))
