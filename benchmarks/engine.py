"""The engine as it is started by default: `vfuserver serve`, which polls while that pays, before clients of each kind.

Beside it in every round: a bare echo of the client's kind, the same server with each other way to `--poll`, and, if
LIBVFIO_USER_SO names libvfio-user, the library's, which sleep: with a C callback, with a Python callback, and the same
device of ours on it (`--engine libvfio-user`). A client that polls has a processor of its own, and its server another.
One that sleeps shares its server's, as the scheduler mostly has it: which it chooses changes every time by a half.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.figure import Figure, over
from benchmarks.servers import (
    AS_ENGINE,
    IN_C,
    Words,
    compiled,
    has_cffi,
    library,
    numbers,
    peers,
    place,
    polls,
    serve,
    started,
)

READS, WARM_UP = 3000, 300  # wire.c reads a tenth more
MANY, SECONDS = 64, 0.5
ON: Final = "vfuserver serve"
CLIENTS: Final = {"polled": "polling", "slept": "sleeping"}
SERVER_IS_ON: Final = {"polled": 1, "slept": 0}
"""The client is on processor 0."""
ECHOES: Final = {"polled": "echo", "slept": "sleeping-echo"}

Round = dict[tuple[str, str], float]
"""Nanoseconds, by who served and what; for `many`, parts."""


def run(rounds: int, progress: Callable[[int], None]) -> list[Figure]:
    """Times everything `rounds` times, interleaved. RuntimeError if a server does not start."""
    found = []
    with tempfile.TemporaryDirectory(prefix="vfuserver-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        client = compiled("wire", folder)
        servers = {kind: (stack.enter_context(started(words)), path) for kind, (words, path) in _all(folder).items()}
        many = stack.enter_context(_many(folder))
        for _ in range(rounds):
            found.append(_round(client, servers) | _together(client, many))
            progress(1)
    return over(list(_figures(one)) for one in found)


def _all(folder: Path) -> dict[str, tuple[Words, Path]]:
    options: dict[str, Words] = {ON: (), **{f"{ON} --poll {way}": ("--poll", way) for way in polls()[1:]}}
    if library() and has_cffi():
        options[AS_ENGINE] = ("--engine", "libvfio-user")
    paths = {kind: folder / f"ours-{number}.sock" for number, kind in enumerate(options)}
    ours = {kind: (serve("testdev", "--socket", paths[kind], *more), paths[kind]) for kind, more in options.items()}
    return {**ours, **peers(folder, "sleeping", "sleep")}


def _round(client: Path, servers: dict[str, tuple[int, Path]]) -> Round:
    found = {("bare", words): numbers([client, words])[0] for words in ECHOES.values()}
    for kind, (pid, path) in servers.items():
        for mode in CLIENTS:
            found[kind, mode], found[kind, f"{mode} cpu"] = _reads(client, pid, path, mode)
    return found


def _figures(found: Round) -> Iterator[Figure]:
    kinds = [kind for kind, what in found if what == "polled"]
    yield Figure("bare echo, both polling, round trip", found["bare", "echo"], "ns")
    yield Figure("bare echo, both sleeping, round trip", found["bare", "sleeping-echo"], "ns")
    for mode, client in CLIENTS.items():
        for kind in kinds:
            yield Figure(f"{kind}: hooked read, {client} client", found[kind, mode], "ns")
            yield Figure("  in echoes of its kind", found[kind, mode] / found["bare", ECHOES[mode]], "times")
            yield Figure("  server CPU for each", found[kind, f"{mode} cpu"], "ns")
    polled, slept = found[ON, "polled"], found[ON, "slept cpu"]
    for kind in kinds[1:]:
        times, most = polled / found[kind, "polled"], 0.25 if kind == IN_C else None
        yield Figure(f"polling client, default, in trips with {kind}", times, "times", most=most)
        times, most = slept / found[kind, "slept cpu"], 1.1 if kind == IN_C else None
        yield Figure(f"CPU for a sleeping client, default, to {kind}", times, "times", most=most)
    throughput = f"{MANY} connections, total throughput to one connection's"
    yield Figure(throughput, found["many", "throughput"], "times", least=0.9)
    yield Figure("  slowest connection to the mean", found["many", "slowest"], "times", least=0.5)


# -- clients ---------------------------------------------------------------------------------------------------------


def _reads(client: Path, pid: int, path: Path, mode: str) -> tuple[float, float]:
    """A hooked read: its median, and the server's CPU time for one."""
    place(pid, SERVER_IS_ON[mode])
    before = _cpu(pid)
    (time,) = numbers([client, "session", path], f"write 7 4 7\n{mode} 0 4 {READS}\n")
    return time, (_cpu(pid) - before) / (READS + WARM_UP)


def _cpu(pid: int) -> float:
    """Nanoseconds of all of its threads."""
    return sum(int(task.joinpath("schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def _together(client: Path, paths: Sequence[Path]) -> Round:
    (one, _), (each, slowest) = (numbers([client, "many", SECONDS, *some]) for some in (paths[:1], paths))
    return {("many", "throughput"): one / each, ("many", "slowest"): slowest}


# -- servers ---------------------------------------------------------------------------------------------------------


@contextmanager
def _many(folder: Path) -> Iterator[list[Path]]:
    """As many devices in one process, which has a processor of its own."""
    config, paths = folder / "many.toml", [folder / f"many-{number}.sock" for number in range(MANY)]
    config.write_text("".join(f'[[device]]\ndevice = "testdev"\nsocket = "{path}"\n' for path in paths))
    with started(serve("--config", config), MANY) as pid:
        place(pid, 1)
        yield paths
