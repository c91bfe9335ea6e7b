"""`vfuserver demo`: one Linux guest with three devices served in this process, and what the guest saw.

What the guest does is data (`_demo_steps`); here it is started, shown and judged.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vfuserver.cli._demo_steps import DEVICES, MODULES, PRELUDE, STEPS, Step
from vfuserver.cli._failures import FAILURE

if TYPE_CHECKING:
    from vfuserver.engine import Server
    from vfuserver.guest import CompletedCommand, Machine, Plug

TOPOLOGY = "q35-viommu"
STEP_SECONDS = 30.0
"""How long one step may take; it takes about one."""
TAIL = 40
"""Lines of a log that are shown when something failed."""


@click.command(short_help="Show a Linux guest that uses three devices.")
def command() -> int:
    """Boot a Linux guest and show what it sees of gpio-idio-16, edu and testdev.

    QEMU, a stock Debian kernel and busybox are found or fetched (see `vfuserver guest`); nothing is installed and
    nobody needs to be root. Lines that start with "guest|" are the guest's own. The exit code is 0 if every check
    held, else 1, with the end of the guest's console.

    \b
    Example:
      vfuserver demo
    """
    from vfuserver.cli._guest_parts import machine_class
    from vfuserver.cli._logging import log_to_stderr
    from vfuserver.engine import run_loop

    machine_class()
    log_to_stderr("warning")
    failed: int = run_loop(_demo)
    return FAILURE if failed else 0


async def _demo() -> int:
    """The number of checks that failed."""
    import asyncio
    import tempfile

    from vfuserver.engine import Server
    from vfuserver.guest import find_busybox, find_kernel, find_qemu

    started = time.monotonic()
    click.echo("Looking for QEMU, a kernel and busybox (what is missing is fetched once)")
    qemu = await asyncio.to_thread(find_qemu)
    kernel = await asyncio.to_thread(find_kernel)
    await asyncio.to_thread(find_busybox)
    click.echo(f"  QEMU {qemu.version} ({qemu.origin})\n  kernel {kernel.image.name} ({kernel.origin})")
    click.echo(f"  {_since(started)}")
    with tempfile.TemporaryDirectory(prefix="vfuserver-demo-") as folder:
        async with Server() as server:
            plugs = _serve(server, Path(folder))
            failed = await _boot_and_watch(plugs)
    verdict = "Everything held" if not failed else f"{failed} of {len(STEPS)} steps did NOT hold, or were not reached"
    click.echo(f"\n{verdict}: {len(STEPS)} steps, {_since(started)} in all")
    return failed


def _serve(server: Server, folder: Path) -> list[Plug]:
    from vfuserver.cli._serving import Wanted, add, plugs
    from vfuserver.device import load_model

    click.echo("\nServing in this process")
    served = []
    for name, options in DEVICES.items():
        path = folder / f"{name}.sock"
        add(server, Wanted(name, sockets=[path], options=options))
        click.echo(f"  {name}" + "".join(f" --set {key}={value}" for key, value in options.items()))
        served += plugs(load_model(name), name, [path])
    return served


async def _boot_and_watch(plugs: list[Plug]) -> int:
    from vfuserver.cli._guest_parts import machine_class
    from vfuserver.errors import VfuserverError

    guest = machine_class()(TOPOLOGY, plugs, modules=MODULES)
    click.echo(f"\nBooting a stock Linux guest (topology {TOPOLOGY})")
    started, held = time.monotonic(), 0
    try:
        async with guest:
            version = await guest.check("uname -sr")
            click.echo(f"  guest| {version}\n  {_since(started)} until the guest takes commands")
            for step in STEPS:
                held += await _watch(guest, step)
    except VfuserverError as error:
        click.echo(f"\nThe guest failed: {error}", err=True)
        return len(STEPS) - held
    if held < len(STEPS):
        click.echo(_tails(guest), err=True)
    return len(STEPS) - held


async def _watch(guest: Machine, step: Step) -> bool:
    """Has the guest do one step, shows its lines, and says whether the step held."""
    click.echo(f"\n{step.title}")
    started = time.monotonic()
    done = await guest.run(PRELUDE + step.script, timeout=STEP_SECONDS)
    for line in done.text.splitlines():
        click.echo(f"  guest| {line.strip()}")
    missing = _missing(done, step)
    for what in missing:
        click.echo(f"  FAILED: {what}")
    if not missing:
        click.echo(f"  held, {_since(started)}")
    return not missing


def _missing(done: CompletedCommand, step: Step) -> list[str]:
    """What a step's output lacks, in words; nothing if it held."""
    import re

    lines = [line.strip() for line in done.text.splitlines()]
    missing = [f"no line matches {one}" for one in step.expected if not any(re.search(one, line) for line in lines)]
    return missing + ([f"the script ended with {done.returncode}"] if done.returncode else [])


def _tails(guest: Machine) -> str:
    ends = ("\n".join(text.splitlines()[-TAIL:]) for text in (guest.qemu_log, guest.console))
    return "--- QEMU said:\n{}\n--- end of the guest's console:\n{}".format(*ends)


def _since(moment: float) -> str:
    return f"{time.monotonic() - moment:.1f} s"
