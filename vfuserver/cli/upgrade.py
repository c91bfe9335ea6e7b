"""`vfuserver upgrade SOCKET-OR-PID`: has a new process take over from a running server, asked by its control socket."""

import click

from vfuserver.cli._parameters import json_option

PATIENCE = 120.0
"""Seconds that the new process may take to start, and the old one to stand still."""


@click.command(short_help="Replace a running server by one of the code that is installed now.")
@click.argument("server", metavar="SOCKET-OR-PID")
@json_option()
def command(server: str, as_json: bool) -> None:
    """Have a new process, of the code that is on disk now, take over from a running `vfuserver serve`.

    It is started with the same command line and takes over devices, sockets, clients' memory, interrupts, what was
    received and not answered yet, a migration that is under way, jobs and timers: guests notice a pause of some
    milliseconds, which is printed. If it cannot, because the code does not load, or a device is not the one that the
    guest knows any more (other BARs, another identity, state that it cannot take), that is said with the reasons, and
    the present process carries on.

    The process that was started first stays as the parent, so that whoever has started it can still signal it.

    \b
    Examples:
      vfuserver upgrade /tmp/edu.sock
      vfuserver upgrade $(pidof -x vfuserver) --json
    """
    from vfuserver.control import ControlClient, control_socket

    with ControlClient(control_socket(server), PATIENCE) as control:
        done = control.ask("upgrade")
    if as_json:
        import json

        click.echo(json.dumps(done, indent=2))
    else:
        click.echo(f"process {done['pid']} serves now; nobody did for {done['pause_ms']:.1f} ms")
