"""`vfuserver serve`: devices on sockets until SIGTERM. What serving is, `_serving` and the engine know."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfuserver.cli._failures import Settings
from vfuserver.cli._logging import LEVELS, log_to_stderr
from vfuserver.cli._parameters import FileMode, KeyValue, Number, device_argument, pairs, set_option
from vfuserver.errors import UsageError

if TYPE_CHECKING:
    from vfuserver.engine import Server

SIGNALLED = 128
DEFAULT_CHECKPOINT = 1.0
"""Seconds."""
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
@click.option(
    "--engine",
    type=click.Choice(["vfuserver", "libvfio-user"]),
    show_default="vfuserver",
    help="What serves it: our own, or libvfio-user where that library is installed.",
)
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
    "--poll",
    type=click.Choice(["auto", "off", "dedicated"]),
    show_default="auto",
    help="Poll for the next message instead of sleeping: while that pays, never, or always on a thread of its own.",
)
@click.option(
    "--poll-us",
    type=Number(),
    metavar="MICROSECONDS",
    show_default="50, dedicated 500",
    help="How much later all else may be by that, at most.",
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
@click.option("--reload", is_flag=True, help="Replace the server, under its clients, when a device's source is saved.")
@click.option("--supervise", is_flag=True, help="Stay as the server's parent, and start another one when it is killed.")
@click.option(
    "--checkpoint",
    type=float,
    metavar="SECONDS",
    show_default="1",
    help="How much of the devices' work is lost then, at most.",
)
@click.option("--supervised", type=int, hidden=True, help="The channel to the supervisor.")
@click.option("--take-over", type=int, hidden=True, help="The channel to the process that is to be replaced.")
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
    reload: bool,
    supervise: bool,
    checkpoint: float | None,
    supervised: int | None,
    take_over: int | None,
    **given: Any,
) -> int:
    """Serve DEVICE on a UNIX socket, or a card on one for each function, until SIGTERM or SIGINT.

    When it listens it prints one line for each of them on stdout, `ready DEVICE PATH`, and tells systemd if
    $NOTIFY_SOCKET is set. At the end the sockets are removed. The log is on stderr. `vfuserver inspect PATH` shows
    what it holds, by the control socket PATH.control; `vfuserver upgrade PATH` replaces the process under its clients.

    \b
    Examples:
      vfuserver serve edu --socket /tmp/edu.sock
      vfuserver serve gpio-idio-16 --socket /tmp/gpio.sock --set loopback=yes
      vfuserver serve idio-pair --socket /tmp/f0.sock --socket /tmp/f1.sock
      vfuserver serve ./mine.py:Mine --socket /tmp/mine.sock --suggest --log-level debug
      vfuserver serve ./mine.py:Mine --socket /tmp/mine.sock --reload
      vfuserver serve edu --socket /tmp/edu.sock --supervise --checkpoint 0.1
      vfuserver serve --config devices.toml
    """
    began = time.time()
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
    _check_life(reload, supervise, checkpoint, wanted)
    every = DEFAULT_CHECKPOINT if checkpoint is None else checkpoint
    life = Life(take_over, supervised, every, reload, began)
    if supervise and life.first:
        from vfuserver.cli._supervising import supervise as run_supervisor

        return _exit_code(run_loop(run_supervisor, "asyncio"))  # uvloop keeps SIGCHLD to itself
    left = run_loop(lambda: _serve(wanted, life), process.get("loop", "uvloop"))
    if left and life.first:
        from vfuserver.cli._succeeding import stay_behind

        stay_behind()
    return 0


@dataclass(frozen=True, slots=True)
class Life:
    """Where a server comes from, and what becomes of it: the channel to the process that it takes over from, the one to
    its supervisor, how often that is told (seconds), whether it gives way to edited code, and when it began (seconds of
    the epoch)."""

    take_over: int | None
    supervised: int | None
    checkpoint: float
    reload: bool
    began: float

    @property
    def first(self) -> bool:
        """Whether a person has started it, and no process of ours."""
        return self.take_over is None and self.supervised is None


def _check_life(reload: bool, supervise: bool, checkpoint: float | None, wanted: Sequence[Any]) -> None:
    """UsageError unless these options can be meant together."""
    if reload:
        from vfuserver.cli._reloading import require_watcher

        require_watcher()
    if checkpoint is not None and not supervise:
        raise UsageError("--checkpoint needs --supervise: without a supervisor nobody keeps anything")
    if checkpoint is not None and checkpoint <= 0:
        raise UsageError(f"--checkpoint must be a time in seconds, not {checkpoint:g}")
    if supervise:
        from vfuserver.cli._serving import require_one_thread
        from vfuserver.engine import require_portable

        for one in wanted:
            require_portable(one.engine, f"{one.name or one.device} cannot be served with --supervise")
            require_one_thread(one, "--supervise")


def _exit_code(status: int) -> int:
    """As a shell reports it, for a server that a signal has ended."""
    return status if status >= 0 else SIGNALLED - status


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


async def _serve(wanted: Sequence[Any], life: Life) -> bool:
    """True: another process serves now."""
    from vfuserver.cli._notify import notify
    from vfuserver.cli._serving import use_all_descriptors
    from vfuserver.control.succession import own_command_line
    from vfuserver.engine import Server

    use_all_descriptors()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(command=own_command_line()))
        server.stop_on()
        if life.take_over is None:
            await _begin(stack, server, wanted, life)
        else:
            await _take_over(stack, server, wanted, life, life.take_over)
        if life.reload:
            _watch_sources(stack, server, wanted, life.began)
        await server.stopped()
        if not server.left:
            notify("STOPPING=1")
        return server.left


def _watch_sources(stack: AsyncExitStack, server: Server, wanted: Sequence[Any], since: float) -> None:
    """Until the server ends."""
    import asyncio

    from vfuserver.cli._reloading import reload_on_change, sources
    from vfuserver.device import load_model

    files = sources(load_model(one.device) for one in wanted)
    watching = asyncio.get_running_loop().create_task(reload_on_change(server, files, since))
    stack.callback(watching.cancel)


async def _begin(stack: AsyncExitStack, server: Server, wanted: Sequence[Any], life: Life) -> None:
    from vfuserver.cli._notify import notify
    from vfuserver.cli._serving import add, warm_up
    from vfuserver.control.server import ControlServer

    if life.supervised is not None:
        from vfuserver.control.safekeeping import Safekeeping

        Safekeeping.of(server, life.supervised, life.checkpoint)
    lines = [line for one in wanted for line in add(server, one)]
    await stack.enter_async_context(ControlServer(server))
    if server.safe is not None:
        stack.callback(server.safe.leave)
        server.safe.begin()
        server.safe.tell_companions()
    for line in lines:
        print(f"ready {line}", flush=True)
    notify("READY=1")
    warm_up()


async def _take_over(stack: AsyncExitStack, server: Server, wanted: Sequence[Any], life: Life, channel: int) -> None:
    from vfuserver.cli._serving import warm_up
    from vfuserver.cli._succeeding import succeed
    from vfuserver.control.server import NAME, ControlServer
    from vfuserver.control.succession import Predecessor

    warm_up()  # while the predecessor still serves
    with (
        Predecessor(channel) as predecessor,
        await succeed(server, wanted, predecessor, life.checkpoint) as received,
    ):
        await stack.enter_async_context(ControlServer(server, carried=received.value.get(NAME, ())))
    if server.safe is not None:
        stack.callback(server.safe.leave)
        server.safe.tell_companions()
