"""`vfuserver serve`: devices on sockets until SIGTERM. What serving is, `_serving` and the engine know."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vfuserver.cli._failures import Settings
from vfuserver.cli._logging import LEVELS, log_to_stderr
from vfuserver.cli._parameters import FileMode, KeyValue, Number, device_argument, pairs, set_option
from vfuserver.errors import UsageError

PATH = click.Path(path_type=Path, dir_okay=False)


@click.command(short_help="Serve devices on UNIX sockets.")
@device_argument(required=False)
@click.option(
    "--socket",
    "--socket-path",
    "sockets",
    type=PATH,
    multiple=True,
    help="Where to listen; a stale socket is replaced. Of a card: once for each function, 0 first.",
)
@click.option(
    "--fd",
    "fds",
    type=int,
    multiple=True,
    metavar="N",
    help="Serve this inherited socket instead, listening or connected; of a card as --socket.",
)
@click.option("--config", type=PATH, metavar="FILE.toml", help="Serve the devices of a file (docs/cli.md) instead.")
@set_option()
@click.option("--rom", type=PATH, metavar="FILE", help="What is in the device's expansion ROM.")
@click.option("--socket-mode", type=FileMode(), show_default="0600", help="Permissions of the socket, in octal.")
@click.option("--loop", type=click.Choice(["uvloop", "asyncio"]), show_default="uvloop", help="The event loop.")
@click.option("--log-level", type=click.Choice(LEVELS), show_default="info", help="What goes to stderr.")
@click.option("--suggest", is_flag=True, default=None, help="Log the guest's accesses to undeclared registers.")
@click.option(
    "--max-data-xfer-size", type=Number(), metavar="BYTES", show_default="1 MiB", help="Longest data message."
)
@click.option("--max-msg-fds", type=Number(), show_default="16", help="Most descriptors taken with one message.")
@click.option("--max-dma-maps", type=Number(), show_default="65535", help="Most areas of client memory at a time.")
@click.option("--max-dma-bytes", type=Number(), show_default="no limit", help="Most bytes in all of those areas.")
@click.option("--max-dma-views", type=Number(), show_default="1024", help="Most views of them that the device holds.")
@click.option(
    "--revoke-after", type=float, metavar="SECONDS", show_default="0.1", help="When an unmapped view is taken by force."
)
@click.option("--write-multiple", is_flag=True, default=None, help="Offer REGION_WRITE_MULTI (for QEMU >= 11.0).")
@click.option(
    "--deadline", type=float, metavar="SECONDS", show_default="4", help="When a slow answer becomes ETIMEDOUT."
)
@click.option(
    "--migration",
    type=click.Choice(["v2", "v1", "both", "none"]),
    show_default="v2",
    help="By which version of the protocol devices that migrate are saved and loaded.",
)
@click.option("--hide-peer-to-peer", is_flag=True, default=None, help="Do not tell of their P2P states.")
@click.option(
    "--slow-arc", type=float, metavar="SECONDS", show_default="1", help="When a change of their state is a warning."
)
@click.option(
    "--quirk",
    "quirks",
    type=KeyValue(),
    multiple=True,
    metavar="NAME=VALUE",
    callback=lambda _context, _parameter, given: pairs(given) or None,
    help="Suit a peculiar client: message-dma=auto|spec|old, region-errors=reply|all-ones, sparse-mmap-fds=agreed|16, "
    "private-memory=auto|compare|trust|messages, pre-copy=continues|apart, mig-data-read=exact|padded.",
)
@click.pass_obj
def command(
    state: Settings,
    /,
    device: str | None,
    sockets: Sequence[Path],
    fds: Sequence[int],
    config: Path | None,
    settings: Sequence[tuple[str, str]],
    rom: Path | None,
    **given: Any,
) -> None:
    """Serve DEVICE on a UNIX socket, or a card on one for each function, until SIGTERM or SIGINT.

    When it listens it prints one line for each of them on stdout, `ready DEVICE PATH`, and tells systemd if
    $NOTIFY_SOCKET is set. At the end the sockets are removed. The log is on stderr. `vfuserver inspect PATH` shows
    what it holds, by the control socket PATH.control.

    \b
    Examples:
      vfuserver serve edu --socket /tmp/edu.sock
      vfuserver serve gpio-idio-16 --socket /tmp/gpio.sock --set loopback=yes
      vfuserver serve idio-pair --socket /tmp/f0.sock --socket /tmp/f1.sock
      vfuserver serve ./mine.py:Mine --socket /tmp/mine.sock --suggest --log-level debug
      vfuserver serve --config devices.toml
    """
    from vfuserver.cli._config import PROCESS, read_config, wanted_device
    from vfuserver.engine import run_loop

    _check_place(device, sockets, fds, config, bool(settings or rom))
    chosen = {key: value for key, value in given.items() if value is not None}
    if config is not None:
        process, wanted = read_config(config, chosen)
    else:
        process = {key: chosen.pop(key) for key in PROCESS if key in chosen}
        wanted = [wanted_device(chosen, device=device, sockets=sockets, fds=fds, options=pairs(settings), rom=rom)]
    level = process.get("log_level", "info")
    state.debug |= level == "debug"
    log_to_stderr(level)
    run_loop(lambda: _serve(wanted), process.get("loop", "uvloop"))


def _check_place(
    device: str | None,
    sockets: Sequence[Path],
    fds: Sequence[int],
    config: Path | None,
    details: bool,
) -> None:
    """UsageError unless there is either a file, or one device with places of one kind."""
    if config is not None:
        if device is not None or sockets or fds or details:
            raise UsageError(
                "--config names the devices, sockets and options itself: drop DEVICE, --socket, --fd, --set, --rom"
            )
    elif device is None:
        raise UsageError("which device? Give DEVICE (`vfuserver list` shows them) or --config FILE.toml")
    elif bool(sockets) == bool(fds):
        raise UsageError("give either --socket PATH, to listen there, or --fd N, to serve an inherited socket")


async def _serve(wanted: Sequence[Any]) -> None:
    from vfuserver.cli._notify import notify
    from vfuserver.cli._serving import add, use_all_descriptors
    from vfuserver.control.server import ControlServer
    from vfuserver.engine import Server

    use_all_descriptors()
    async with Server() as server:
        server.stop_on()
        lines = [line for one in wanted for line in add(server, one)]
        async with ControlServer(server):
            for line in lines:
                print(f"ready {line}", flush=True)
            notify("READY=1")
            await server.stopped()
            notify("STOPPING=1")
