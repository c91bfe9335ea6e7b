"""End to end: what a guest's own accesses, interrupts and DMA take, before our server in each of its ways of polling.

Every device is in the same guest and has a server process of its own. They take turns, many and short ones, forth and
back; while one of them has its turn all other processes are stopped, those of the same mode too, so that none that
polls takes a processor from it. Beside ours, where LIBVFIO_USER_SO names that library, a server in C on it with the
same registers (libvfio_user_guest.c), and where LIBVFIO_USER_SAMPLES names the folder of its samples, its
gpio-pci-idio-16; and QEMU's own edu, which no message reaches. The guest measures by its own clock (`pcitool bench`).
It must not know what a message is.
"""

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import click

from benchmarks.figure import Figure, over
from vfuserver.guest import Machine, ObtainError, Plug, ToolError
from vfuserver.session.options import POLL

TURNS: Final = 5
"""Of each device, in a round, which has their medians: where the scheduler has put the threads is kept for a turn, and
changes what it comes to by a half."""
SECONDS: Final = 90.0
"""For all rounds: on a busy machine there are fewer."""
PATIENCE: Final = 20.0
"""Seconds, for one turn."""
MIB: Final = 1 << 20
COPIED: Final = 8 * MIB

Orders = Mapping[str, str]
"""Of `pcitool bench`, by what comes of them."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A model, the guest's driver for it, and what a device of it is asked."""

    model: str
    driver: str
    orders: Orders


VFIO, IDIO = "vfio-pci", "gpio-pci-idio-16"
WRITES: Final = {"write": "post 0x10 0x14 800"}
TESTDEV: Final = Kind(
    "testdev",
    VFIO,
    {"read": "read 0x04 60", **WRITES, "interrupt": "interrupt 0x18 0 30", "copy": f"copy {COPIED} 2"},
)
ONE_BY_ONE: Final = Kind("testdev", VFIO, WRITES)
EDU: Final = Kind("edu", VFIO, {"edu read": "read 0x04 60", "edu interrupt": "interrupt 0x60 1 30"})
GPIO: Final = Kind("gpio-idio-16", IDIO, {"line": "line 16 60"})

LIBRARY, SAMPLE, QEMU, SINGLY = "libvfio-user", "libvfio-user's sample", "QEMU's own", "without WRITE_MULTI"
FIRST_SLOT: Final = 0x8
PEER: Final = Path(__file__).with_name("libvfio_user_guest.c")
MODULES: Final = (VFIO, "vfio_iommu_type1", IDIO)

Turn = dict[tuple[str, str], float]
"""Nanoseconds by server and order."""
Pids = Mapping[int, int]
"""Of the servers, by their devices' slots; QEMU's own device has none."""


@dataclass(frozen=True, slots=True)
class Device:
    """One in the guest: which server has it, its slot and, unless it is QEMU's own, its socket."""

    server: str
    kind: Kind
    slot: int
    socket: Path | None = None

    @property
    def bdf(self) -> str:
        """Where the guest has it."""
        return f"0000:00:{self.slot:02x}.0"

    def fifo(self, end: str) -> str:
        """In the guest."""
        return f"/tmp/{self.slot}.{end}"


def run(rounds: int, progress: Callable[[int], None]) -> list[Figure]:
    """Everything, in `rounds` times TURNS turns of each; nothing, with the reason, where no guest can be had."""
    for name in ("LIBVFIO_USER_SO", "LIBVFIO_USER_SAMPLES"):
        if name not in os.environ:
            click.echo(f"{name} is not set, so what it names is not beside ours", err=True)
    try:
        found = asyncio.run(_rounds(rounds, progress))
    except (ObtainError, ToolError) as reason:
        click.echo(f"no guest, so nothing is measured in one: {reason}", err=True)
        return []
    return _held(over([*_figures(one), *_ratios(one)] for one in found))


async def _rounds(rounds: int, progress: Callable[[int], None]) -> list[Turn]:
    found: list[Turn] = []
    with tempfile.TemporaryDirectory(prefix="vfuserver-bench-") as name, ExitStack() as stack:
        devices = list(_devices(Path(name)))
        pids = stack.enter_context(_servers(devices, Path(name)))
        async with _guest(devices) as guest:
            for device in devices:  # all run: whoever waits for a stopped one while it starts keeps the guest waiting
                await _turn(guest, device)
            end = time.monotonic() + SECONDS
            while len(found) < rounds and (not found or time.monotonic() < end):
                found.append(
                    _medians([await _turns(guest, devices, pids, forth=turn % 2 == 0) for turn in range(TURNS)])
                )
                progress(1)
    return found


async def _turns(guest: Machine, devices: Sequence[Device], pids: Pids, *, forth: bool) -> Turn:
    """One of each device, while the others' servers are stopped."""
    found: Turn = {}
    for device in devices if forth else reversed(devices):
        with _alone(device, pids):
            found |= await _turn(guest, device)
    return found


def _medians(turns: Sequence[Turn]) -> Turn:
    return {what: statistics.median(turn[what] for turn in turns) for what in turns[0]}


async def _turn(guest: Machine, device: Device) -> Turn:
    """It does its orders once."""
    done = await guest.run(_script(device), PATIENCE)
    if done.returncode:
        said = await guest.check(f"cat {device.fifo('log')}")
        raise RuntimeError(f"{device.server}: {said or done.text}")
    orders = [(device.server, what) for what in device.kind.orders]
    return dict(zip(orders, map(float, done.text.split()), strict=True))


def _script(device: Device) -> str:
    """For the guest's shell: a line with the nanoseconds of each order."""
    orders = (f"echo {order} >&4; read -r ns <&5; echo $ns" for order in device.kind.orders.values())
    return "; ".join([f"exec 4>{device.fifo('in')} 5<>{device.fifo('out')}", *orders])


# -- figures ---------------------------------------------------------------------------------------------------------


NAMES: Final = {
    "read": "register read",
    "write": "posted write",
    "interrupt": "write to handler",
    "line": "GPIO line by its stock driver",
    "edu read": "edu, register read",
    "edu interrupt": "edu, write to handler",
}
"""Of what is shown in microseconds."""


def _figures(turn: Turn) -> Iterator[Figure]:
    for what, name in NAMES.items():
        for (server, of), ns in turn.items():
            if of == what:
                yield Figure(f"{name}, {_named(server)}", ns / 1e3, "us")
    for (server, of), ns in turn.items():
        if of == "copy":
            yield Figure(f"DMA, {COPIED // MIB} MiB at a time, {_named(server)}", COPIED / MIB / ns * 1e9, "MiB/s")


def _named(server: str) -> str:
    return f"--poll {server}" if server in POLL else server


MOST: Final = {"read": 0.75, "interrupt": 1.1, "write": None}
"""To libvfio-user's."""


def _ratios(turn: Turn) -> Iterator[Figure]:
    if (LIBRARY, "read") in turn:
        for what in MOST:
            for mode in POLL:
                yield Figure(_ratio(what, mode), turn[mode, what] / turn[LIBRARY, what], "times")


def _ratio(what: str, mode: str) -> str:
    return f"{NAMES[what]}, {_named(mode)}, to libvfio-user's"


def _held(figures: Sequence[Figure]) -> list[Figure]:
    """Of each target the mode that wins is held to it; the others are shown."""
    targets: dict[str, float | None] = {}
    for what, most in MOST.items():
        of_it = [figure for figure in figures if figure.name in {_ratio(what, mode) for mode in POLL}]
        targets |= {min(of_it, key=lambda figure: figure.value).name: most} if of_it else {}
    return [replace(figure, most=targets.get(figure.name)) for figure in figures]


# -- the guest -------------------------------------------------------------------------------------------------------


def _devices(folder: Path) -> Iterator[Device]:
    """All there are, each in a slot of its own."""
    kinds = [(mode, kind) for mode in POLL for kind in (TESTDEV, EDU, GPIO)]
    kinds.append((SINGLY, ONE_BY_ONE))
    if "LIBVFIO_USER_SO" in os.environ:
        kinds.append((LIBRARY, TESTDEV))
    if "LIBVFIO_USER_SAMPLES" in os.environ:
        kinds.append((SAMPLE, GPIO))
    for slot, (server, kind) in enumerate(kinds, FIRST_SLOT):
        yield Device(server, kind, slot, folder / f"{slot}.sock")
    yield Device(QEMU, EDU, FIRST_SLOT + len(kinds))


@asynccontextmanager
async def _guest(devices: Sequence[Device]) -> AsyncIterator[Machine]:
    """With a `pcitool bench` for each of the devices."""
    plugs = [Plug(f"d{one.slot}", one.socket, {"addr": f"{one.slot:#x}"}) for one in devices if one.socket]
    own = [f"edu,addr={one.slot:#x}" for one in devices if not one.socket]
    words = [word for device in own for word in ("-device", device)]
    async with Machine("q35-viommu", plugs, extra_args=words, spare_modules=MODULES) as guest:
        await guest.check(" && ".join(f"modprobe {module}" for module in MODULES))
        await guest.check("echo 32 > /proc/sys/vm/nr_hugepages")
        for one in devices:
            fifos = f"{one.fifo('in')} {one.fifo('out')}"
            await guest.check(f"mkfifo {fifos}")
            if one.kind.driver == VFIO:  # the others have found theirs by themselves
                await guest.check(f"pcitool bind {one.bdf} {VFIO}")
            await guest.check(f"pcitool bench {one.bdf} {fifos} >{one.fifo('log')} 2>&1 &")
        yield guest


# -- servers ---------------------------------------------------------------------------------------------------------


@contextmanager
def _alone(device: Device, pids: Pids) -> Iterator[None]:
    """All others are stopped meanwhile."""
    others = [pid for slot, pid in pids.items() if slot != device.slot]
    try:
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _servers(devices: Sequence[Device], folder: Path) -> Iterator[Pids]:
    """They start all at once, and have their sockets then."""
    with ExitStack() as stack:
        started = [(one, stack.enter_context(_process(_command(one, folder)))) for one in devices if one.socket]
        for device, server in started:
            while device.socket and not device.socket.exists():
                if server.poll() is not None:
                    raise RuntimeError(f"the server {device.server} did not start: see above")
                time.sleep(0.01)
        yield {device.slot: server.pid for device, server in started}


@contextmanager
def _process(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            yield server
        finally:
            server.terminate()


def _command(device: Device, folder: Path) -> list[str]:
    kind, socket = device.server, str(device.socket)
    if kind == LIBRARY:
        program = folder / "libvfio_user_guest"
        subprocess.run(["cc", "-O2", "-o", program, PEER, "-ldl"], check=True)
        return [str(program), os.environ["LIBVFIO_USER_SO"], socket]
    if kind == SAMPLE:
        return [os.path.join(os.environ["LIBVFIO_USER_SAMPLES"], IDIO), socket]
    config = folder / f"{device.slot}.toml"
    config.write_text(_entry(device))
    return [sys.executable, "-m", "vfuserver", "serve", "--log-level", "error", "--config", str(config)]


def _entry(device: Device) -> str:
    """As --config wants it. QEMU posts writes only to a device that has nothing mappable."""
    kind, model = device.server, device.kind.model
    lines = ["[[device]]", f'device = "{model}"', f'socket = "{device.socket}"']
    lines += [f'poll = "{kind}"', "write-multiple = true"] if kind in POLL else []
    lines += ["[device.set]", 'mappable = "no"'] if model == "testdev" else []
    return "\n".join([*lines, ""])
