"""A captive run: devices served in this process, one QEMU with them, and nothing left afterwards.

QEMU gets this process's terminal. It dies with this process, whatever that dies of; when it ends, the servers end.
What boots in it, `_shell_guest` knows; how its machine is made, the topology.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import termios
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vfuserver.cli._assigning import assign
from vfuserver.cli._qemu import brings_boot_medium, has_accelerator, has_console, qemu_id
from vfuserver.cli._serving import Wanted, add, plugs
from vfuserver.cli._shell_guest import GuestKind, shell_words
from vfuserver.control.server import ControlServer
from vfuserver.engine import Server
from vfuserver.guest.obtain import Qemu
from vfuserver.guest.topology import Plug, Topology, load_topology, numbered

PATIENCE = 5.0
"""Seconds that QEMU has to end after SIGTERM."""
CONSOLE = ("-nodefaults", "-no-user-config", "-display", "none", "-serial", "mon:stdio", "-no-reboot")


@dataclass(frozen=True, slots=True)
class Captive:
    """What to run. `settings` are --set pairs; `guest` None means whichever fits `words`, QEMU's own arguments."""

    devices: Sequence[str]
    topology: str
    settings: Sequence[tuple[str, str]]
    guest: GuestKind | None
    modules: Sequence[str]
    words: Sequence[str]

    @property
    def boots(self) -> GuestKind:
        """What boots."""
        return self.guest or ("none" if brings_boot_medium(self.words) else "stock")


async def run_captive(captive: Captive) -> int:
    """Runs it to its end; QEMU's exit code, negative for a signal. UsageError: something that cannot be."""
    topology = load_topology(captive.topology)
    wanted = assign(captive.devices, captive.settings)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vfuserver-run-")))
        words = await asyncio.to_thread(_machine_words, captive, topology, folder)
        server = await stack.enter_async_context(Server())
        server.stop_on()
        served = [plug for one in wanted for plug in _served(server, one, folder)]
        await stack.enter_async_context(ControlServer(server))
        for index, plug in numbered(served):
            path = await stack.enter_async_context(_way_to(plug, topology, folder))
            words += ["-device", json.dumps(topology.device_json(plug, index, path))]
        with _terminal_restored():
            return await _run_qemu([*words, *captive.words], server)


def _machine_words(captive: Captive, topology: Topology, folder: Path) -> list[str]:
    """QEMU and all its words before the devices; fetches what is missing (blocking)."""
    from vfuserver.guest.obtain import find_qemu

    qemu = find_qemu()
    words = [*qemu.command, *topology.machine_args(folder), "-cpu", "max"]
    if not has_accelerator(captive.words):
        words += ["-accel", _accelerator(qemu, captive.boots)]
    if captive.boots != "none":
        words += shell_words(captive.boots, captive.modules, topology.kernel_arguments, folder)
    if not has_console(captive.words) and (captive.boots != "none" or not captive.words):
        words += CONSOLE
    return words


def _accelerator(qemu: Qemu, boots: GuestKind) -> str:
    """KVM if it runs a guest's kernel here; which kernel is asked for only where there is KVM to try."""
    from vfuserver.guest.accel import choose_accel
    from vfuserver.guest.obtain import find_kernel

    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    return choose_accel(qemu, find_kernel("vfio" if boots == "vfio" else "stock"))


def _served(server: Server, wanted: Wanted, folder: Path) -> list[Plug]:
    """One plug a function."""
    from vfuserver.device import function_names, load_model

    model = load_model(wanted.device)
    name = wanted.name or model.device_name
    sockets = [folder / f"{qemu_id(one)}.sock" for one in function_names(model, name)]
    add(server, replace(wanted, sockets=sockets))
    return plugs(model, name, sockets)


@asynccontextmanager
async def _way_to(plug: Plug, topology: Topology, folder: Path) -> AsyncIterator[Path]:
    """Where QEMU connects: the server's socket, or a relay before it."""
    from vfuserver.guest.relay import relay

    if not topology.relay:
        yield Path(plug.socket_path)
        return
    path = folder / f"{plug.id}.relay"
    async with relay(path, Path(plug.socket_path)):
        yield path


async def _run_qemu(words: Sequence[str], server: Server) -> int:
    """Starts QEMU and waits until it ends, or until we are told to stop."""
    setpriv = shutil.which("setpriv")
    guard = (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()
    process = await asyncio.create_subprocess_exec(*guard, *words)
    ended = asyncio.ensure_future(process.wait())
    told = asyncio.ensure_future(server.stopped())
    try:
        await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            await _end(process)
        return await ended
    finally:
        told.cancel()
        if not ended.done():
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(PATIENCE):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@contextmanager
def _terminal_restored() -> Iterator[None]:
    """QEMU makes the terminal raw; if it is killed, nobody else makes it usable again."""
    if not sys.stdin.isatty():
        yield
        return
    settings = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
