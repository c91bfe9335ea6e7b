"""The engine as it is started by default: `vfuserver serve`, which polls while that pays, before clients of each kind.

Beside it in every round: a bare echo of the client's kind, the same server with `--poll off`, and libvfio-user's, which
sleeps, if LIBVFIO_USER_SO names the library. A client that polls has a processor of its own, and its server
another; one that sleeps is where the scheduler puts it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figure import Figure
from benchmarks.wire import compiled

PEER = Path(__file__).with_name("libvfio_user.c")
READS, WARM_UP = 5000, 500  # wire.c reads a tenth more
MANY, SECONDS = 64, 0.5
ON, OFF, LIBRARY = "vfuserver serve", "vfuserver serve --poll off", "libvfio-user, C"


@dataclass(frozen=True, slots=True)
class Trip:
    """A hooked read: its median in nanoseconds, and the server's CPU time for one."""

    time: float
    cpu: float


Samples = dict[tuple[str, str], list[float]]


def run(rounds: int, progress: Callable[[int], None]) -> list[Figure]:
    """Times everything `rounds` times, interleaved. RuntimeError if a server does not start."""
    samples: Samples = {}
    with tempfile.TemporaryDirectory(prefix="vfuserver-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        client = compiled(folder)
        servers = {kind: stack.enter_context(_server(kind, folder)) for kind in _kinds()}
        many = stack.enter_context(_many(folder))
        for _ in range(rounds):
            for words in ("echo", "sleeping-echo"):
                samples.setdefault(("bare", words), []).append(_numbers([client, words])[0])
            for kind, (pid, path) in servers.items():
                for mode in ("polled", "slept"):
                    trip = _reads(client, pid, path, mode)
                    samples.setdefault((kind, mode), []).append(trip.time)
                    samples.setdefault((kind, f"{mode} cpu"), []).append(trip.cpu)
            one, all_of_them = _together(client, many[:1]), _together(client, many)
            samples.setdefault(("many", "throughput"), []).append(one[0] / all_of_them[0])
            samples.setdefault(("many", "slowest"), []).append(all_of_them[1])
            progress(1)
    return list(_figures({what: statistics.median(values) for what, values in samples.items()}))


def _kinds() -> Sequence[str]:
    return (ON, OFF, LIBRARY) if "LIBVFIO_USER_SO" in os.environ else (ON, OFF)


def _figures(median: dict[tuple[str, str], float]) -> Iterator[Figure]:
    yield Figure("bare echo, both polling, round trip", median["bare", "echo"], "ns")
    yield Figure("bare echo, both sleeping, round trip", median["bare", "sleeping-echo"], "ns")
    for mode, client in (("polled", "polling"), ("slept", "sleeping")):
        for kind in _kinds():
            yield Figure(f"{kind}: hooked read, {client} client", median[kind, mode], "ns")
            yield Figure("  server CPU for each", median[kind, f"{mode} cpu"], "ns")
    polled, slept = median[ON, "polled"], median[ON, "slept cpu"]
    yield Figure("polling client, default, in bare sleeping echoes", polled / median["bare", "sleeping-echo"], "times")
    yield Figure("polling client, default, in trips with --poll off", polled / median[OFF, "polled"], "times")
    yield Figure("CPU for a sleeping client, default, to --poll off", slept / median[OFF, "slept cpu"], "times")
    if LIBRARY in _kinds():
        times = polled / median[LIBRARY, "polled"]
        yield Figure("polling client, default, in trips with libvfio-user", times, "times", most=0.25)
        times = slept / median[LIBRARY, "slept cpu"]
        yield Figure("CPU for a sleeping client, default, to libvfio-user", times, "times", most=1.1)
    throughput = f"{MANY} connections, total throughput to one connection's"
    yield Figure(throughput, median["many", "throughput"], "times", least=0.9)
    yield Figure("  slowest connection to the mean", median["many", "slowest"], "times", least=0.5)


# -- clients ---------------------------------------------------------------------------------------------------------


def _numbers(words: Sequence[object], script: str = "") -> list[float]:
    done = subprocess.run([*map(str, words)], input=script, check=True, capture_output=True, text=True, timeout=120)
    return [float(line) for line in done.stdout.split()]


def _reads(client: Path, pid: int, path: Path, mode: str) -> Trip:
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(pid, sorted(everywhere)[1:2] or everywhere if mode == "polled" else everywhere)
    before = _cpu(pid)
    (time,) = _numbers([client, "session", path], f"write 7 4 7\n{mode} 0 4 {READS}\n")
    return Trip(time, (_cpu(pid) - before) / (READS + WARM_UP))


def _cpu(pid: int) -> float:
    """Nanoseconds of all of its threads."""
    return sum(int(task.joinpath("schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def _together(client: Path, paths: Sequence[Path]) -> list[float]:
    return _numbers([client, "many", SECONDS, *paths])


# -- servers ---------------------------------------------------------------------------------------------------------


@contextmanager
def _server(kind: str, folder: Path) -> Iterator[tuple[int, Path]]:
    path = folder / f"{len(list(folder.iterdir()))}.sock"
    if kind == LIBRARY:
        program = folder / "libvfio_user"
        subprocess.run(["cc", "-O2", "-o", program, PEER, "-ldl"], check=True)
        command = [program, os.environ["LIBVFIO_USER_SO"], path]
    else:
        poll = ["--poll", "off"] if kind == OFF else []
        command = [*_serve(), "testdev", "--socket", path, *poll]
    with _started(command, 1) as pid:
        yield pid, path


@contextmanager
def _many(folder: Path) -> Iterator[list[Path]]:
    """As many devices in one process, which has a processor of its own."""
    config, paths = folder / "many.toml", [folder / f"many-{number}.sock" for number in range(MANY)]
    config.write_text("".join(f'[[device]]\ndevice = "testdev"\nsocket = "{path}"\n' for path in paths))
    with _started([*_serve(), "--config", config], MANY) as pid:
        os.sched_setaffinity(pid, sorted(os.sched_getaffinity(0))[1:2] or os.sched_getaffinity(0))
        yield paths


def _serve() -> list[object]:
    return [sys.executable, "-m", "vfuserver", "serve", "--log-level", "error"]


@contextmanager
def _started(command: Sequence[object], lines: int) -> Iterator[int]:
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            for _ in range(lines):
                if not server.stdout.readline():
                    raise RuntimeError(f"a server did not start, see above: {command[0]}")
            yield server.pid
        finally:
            server.terminate()
