"""Migration: a large state saved and loaded beside a plain socket copy, the blackout of a small one, a dirty report.

Servers and the receiver of the plain copy are processes of their own; the client is the one of `vfuserver migrate`, in
this process. Each round times a plain copy of the same bytes and then every case.
"""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.figure import Figure, over
from benchmarks.sizes import AREA, AREAS, BITMAP, GIB, LARGE, MIB, SMALL, TIB
from vfuserver.cli._migrating import Move
from vfuserver.cli._moving import destination_at, source_at
from vfuserver.client import OWN_PROPOSAL, Client, GuestMemory
from vfuserver.vfio import MigrationState, PciRegion

PATIENCE: Final = 60.0
"""Seconds for each reply: the first load of a large device touches all its memory for the first time."""
CPU_CLOCK: Final = 2
"""CPUCLOCK_SCHED: with the complement of a pid above it, the clock of that process's CPU time (clock_getcpuclockid)."""
FILLED: Final = int(PciRegion.BAR2)


def run(rounds: int, progress: Callable[[int], None]) -> list[Figure]:
    """Everything, `rounds` times. RuntimeError: a server does not start, or bytes were lost."""
    with tempfile.TemporaryDirectory(prefix="vfuserver-bench-") as folder, ExitStack() as stack:
        servers = {
            name: stack.enter_context(_process(kind, Path(folder) / name))
            for name, kind in {
                "plain": "plain", "source": "large", "target": "large", "here": "small", "there": "small",
                "writer": "writer",
            }.items()
        }  # fmt: skip
        samples = asyncio.run(_samples(Path(folder), servers["writer"], rounds, progress))
    each = zip(*samples.values(), strict=True)
    return over(_figures(dict(zip(samples, one, strict=True))) for one in each)


def _figures(found: dict[str, float]) -> list[Figure]:
    large = f"{LARGE // MIB} MiB"
    return [
        Figure(f"plain socket copy of {large}", found["plain"] * 1e3, "ms"),
        Figure(f"save of a device with {large}", found["save"] * 1e3, "ms"),
        Figure("  plain copy over it", found["plain"] / found["save"], "times", least=0.5),
        Figure(f"load of a device with {large}", found["load"] * 1e3, "ms"),
        Figure("  plain copy over it", found["plain"] / found["load"], "times", least=0.5),
        Figure(f"blackout of a device with {SMALL // MIB} MiB", found["blackout"] * 1e3, "ms", most=20),
        Figure("dirty report of 1 TiB, CPU of the server", found["report"] * 1e3, "ms", most=50),
    ]


async def _samples(folder: Path, writer: int, rounds: int, progress: Callable[[int], None]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        found.setdefault(name, []).append(seconds)

    await _fill(folder / "source", LARGE)
    await _fill(folder / "here", SMALL)
    stream = await _stream(folder / "source")
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(os.fspath(folder / "plain"))
        for _ in range(rounds):
            note("plain", _copied(plain, stream))
            note("save", await _saved(folder / "source"))
            note("load", await _loaded(folder / "target", stream))
            note("blackout", await _blackout(folder / "here", folder / "there"))
            progress(1)
    if await _stream(folder / "target") != stream:
        raise RuntimeError("what was loaded is not what comes back")
    for _ in range(rounds):
        note("report", await _report(folder / "writer", writer))
    return found


# -- the cases


def _copied(plain: socket.socket, source: bytes) -> float:
    started = time.perf_counter()
    bytes_of_it = memoryview(source)
    for at in range(0, LARGE, MIB):
        plain.sendall(bytes_of_it[at : min(at + MIB, LARGE)])
    plain.recv(1)
    return time.perf_counter() - started


async def _saved(path: Path) -> float:
    """Seconds from the request to stop until the last byte of the state is here."""
    async with _client(path) as client:
        started, size = time.perf_counter(), 0
        await client.set_device_state(MigrationState.STOP_COPY)
        async for piece in client.state_pieces():
            size += len(piece)
        seconds = time.perf_counter() - started
        await client.set_device_state(MigrationState.RUNNING)
    if size < LARGE:
        raise RuntimeError(f"{path}: only {size} bytes were saved")
    return seconds


async def _loaded(path: Path, stream: bytes) -> float:
    """Seconds from the request to take state until all of it is verified and in the device."""
    async with _client(path) as client:
        started = time.perf_counter()
        await client.set_device_state(MigrationState.RESUMING)
        await client.write_state(stream)
        await client.set_device_state(MigrationState.STOP)
        seconds = time.perf_counter() - started
        await client.set_device_state(MigrationState.RUNNING)
    return seconds


async def _stream(path: Path) -> bytes:
    """The state, in one piece."""
    async with _client(path) as client:
        await client.set_device_state(MigrationState.STOP_COPY)
        stream = await client.read_state(2 * LARGE)
        await client.set_device_state(MigrationState.RUNNING)
    return stream


async def _blackout(here: Path, there: Path) -> float:
    """Seconds for which neither runs; afterwards the first one does again."""
    async with source_at(here, PATIENCE) as source, destination_at(there, PATIENCE) as destination:
        moved = await Move(source, destination, rounds=0, mirror=None, advance=lambda _: None).run()
        await source.client.set_device_state(MigrationState.RUNNING)
    return moved.blackout


async def _report(path: Path, server: int) -> float:
    """Seconds of the server's CPU for all reports of what its device has just written."""
    with GuestMemory(AREA) as memory:
        async with _client(path, {"max_data_xfer_size": BITMAP}) as client:
            await client.enable()
            for area in range(AREAS):
                await client.dma_map(area * GIB, memory)
            await client.dma_logging_start()
            await client.region_write(0, 0, b"\1\0\0\0")
            started = _cpu(server)
            bitmap = await client.dma_logging_report(0, TIB)
            spent = _cpu(server) - started
    written = AREAS * AREA // 4096
    if bitmap.count(b"\xff") * 8 != written:
        raise RuntimeError(f"{written} pages were written, and {bitmap.count(0xFF) * 8} reported")
    return spent


def _cpu(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | CPU_CLOCK)


# -- who else takes part


@asynccontextmanager
async def _client(path: Path, more: dict[str, int] | None = None) -> AsyncIterator[Client]:
    async with await Client.connect(path, {**OWN_PROPOSAL, **(more or {})}, timeout=PATIENCE) as client:
        yield client


async def _fill(path: Path, size: int) -> None:
    """Bytes that nothing can compress, and nowhere a page of zeros."""
    async with _client(path) as client:
        await client.enable()
        for at in range(0, size, MIB):
            await client.region_write(FILLED, at, os.urandom(MIB))


@contextmanager
def _process(kind: str, path: Path) -> Iterator[int]:
    """A process of `benchmarks.moved` that listens; its pid."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.moved", kind, path], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if not process.stdout.readline():
                raise RuntimeError(f"the process of {kind} did not start: see above")
            yield process.pid
        finally:
            process.terminate()
