"""`vfuserver run`: servers and QEMU that live and die together. Only what a person asked for is known here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from vfuserver.cli._failures import Settings
from vfuserver.cli._logging import LEVELS, log_to_stderr
from vfuserver.cli._parameters import device_argument, set_option, topology_option

QEMU_WORDS = "vfuserver.qemu_words"
SIGNALLED = 128
"""As a shell reports a process that a signal has ended."""


class WithQemuArguments(click.Command):
    """A command that leaves everything behind -- to QEMU."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keeps QEMU's words in the context's meta."""
        if "--" in args:
            border = args.index("--")
            args, ctx.meta[QEMU_WORDS] = args[:border], tuple(args[border + 1 :])
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Shows where they go."""
        return [*super().collect_usage_pieces(ctx), "[-- QEMU ARGS...]"]


@click.command(cls=WithQemuArguments, short_help="Run a guest with devices in it.")
@device_argument(nargs=-1, required=True)
@topology_option("q35-shared")
@set_option("Set an option: KEY=VALUE for each device that has it, DEVICE.KEY=VALUE for one. May be repeated.")
@click.option(
    "--guest",
    type=click.Choice(["stock", "vfio", "none"]),
    show_default="stock, or none if QEMU ARGS bring a kernel or a disk",
    help="What boots: a stock Debian kernel with a busybox shell, the project's own kernel likewise, or your own.",
)
@click.option("--module", "modules", metavar="NAME", multiple=True, help="Load it in the stock guest; may be repeated.")
@click.option("--log-level", type=click.Choice(LEVELS), default="warning", help="What goes to stderr.")
@click.pass_context
def command(
    ctx: click.Context,
    device: tuple[str, ...],
    topology: str,
    settings: Sequence[tuple[str, str]],
    guest: Any,
    modules: tuple[str, ...],
    log_level: str,
) -> int:
    """Serve every DEVICE and run QEMU with them; when QEMU ends, all ends.

    Everything after -- goes to QEMU, which has the terminal and whose exit code is the command's. If nothing there
    brings a kernel or a disk, a stock guest boots to a shell on this terminal: `exit` ends it, and so does Ctrl-A X.
    The sockets lie in a private folder that is removed at the end.

    \b
    Examples:
      vfuserver run edu
      vfuserver run gpio-idio-16 --set loopback=yes --module gpio-pci-idio-16
      vfuserver run edu testdev --topology q35-viommu
      vfuserver run ./mine.py:Mine -- -drive file=disk.img,if=virtio -nographic
    """
    from vfuserver.cli._captive import Captive, run_captive
    from vfuserver.engine import run_loop

    state = ctx.ensure_object(Settings)
    state.debug |= log_level == "debug"
    log_to_stderr(log_level)
    wanted = Captive(device, topology, settings, guest, modules, ctx.meta.get(QEMU_WORDS, ()))
    code: int = run_loop(lambda: run_captive(wanted))
    return code if code >= 0 else SIGNALLED - code
