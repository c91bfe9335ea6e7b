"""The wire cases: testdev behind a polling pump in one process, a polling C client in another.

Both sides poll, so what is timed is the code and the socket, not the wake-ups of the kernel. Each round starts a fresh
echo; the servers live through all rounds. libvfio-user's do so too, where LIBVFIO_USER_SO names it, and poll by a
non-blocking vfu_run_ctx.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.figure import Figure, over
from benchmarks.servers import IN_C, IN_PYTHON, compiled, numbers, peers, place, started

READS, BATCH, BATCHES = 2000, 256, 50
OURS: Final = "vfuserver"


@dataclass(frozen=True)
class Case:
    """One measurement of ours: a line of the client's script, what it may cost in echo round trips, and beside which of
    libvfio-user's it stands; of that with a C callback it may be `most_of_c` times."""

    name: str
    script: str
    most: float
    beside: str
    most_of_c: float | None = None


READ, POST = f"polled 0 4 {READS}", f"post 0 4 {BATCH} {BATCHES}"
CASES = (
    Case("plain register read (BAR1)", f"polled 1 0 {READS}", 1.10, READ),
    Case("hooked register read (BAR0)", READ, 1.20, READ, 0.9),
    Case(f"posted write, plain, of a batch of {BATCH}", f"post 1 0 {BATCH} {BATCHES}", 1 / 25, POST, 1 / 15),
    Case(f"posted write, hooked, of a batch of {BATCH}", POST, 1 / 7, POST, 1 / 4),
)
THEIRS: Final = {READ: "register read", POST: f"posted write of a batch of {BATCH}"}

Round = dict[tuple[str, str], float]
"""Nanoseconds, by who served and the line of the script."""


def run(rounds: int, progress: Callable[[int], None], alone: bool = False) -> list[Figure]:
    """Times every case `rounds` times, interleaved with the echo. RuntimeError if a server does not start.

    `alone`: ours only, wherever the library is.
    """
    with tempfile.TemporaryDirectory(prefix="vfuserver-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        servers = {
            kind: (stack.enter_context(started(words)), path) for kind, (words, path) in _all(folder, alone).items()
        }
        for pid, _ in servers.values():
            place(pid, 1)
        found = []
        for _ in range(rounds):
            found.append(_round(compiled("wire", folder), {kind: path for kind, (_, path) in servers.items()}))
            progress(1)
    return over(list(_figures(one)) for one in found)


def _all(folder: Path, alone: bool) -> dict[str, tuple[list[object], Path]]:
    path = folder / "testdev.sock"
    ours: list[object] = [sys.executable, "-m", "benchmarks.polling", path]
    if alone:
        return {OURS: (ours, path)}
    theirs = {kind: ([*words], where) for kind, (words, where) in peers(folder, "polling", "poll").items()}
    return {OURS: (ours, path), **theirs}


def _round(client: Path, servers: dict[str, Path]) -> Round:
    found: Round = {("echo", ""): numbers([client, "echo"])[0]}
    for kind, path in servers.items():
        scripts = [case.script for case in CASES] if kind == OURS else [*THEIRS]
        values = numbers([client, "session", path], "\n".join([*(["write 7 4 7"] * (kind == OURS)), *scripts, ""]))
        found |= {(kind, script): value for script, value in zip(scripts, values, strict=True)}
    return found


def _figures(found: Round) -> Iterator[Figure]:
    echo = found["echo", ""]
    yield Figure("bare echo, round trip", echo, "ns")
    for case in CASES:
        value = found[OURS, case.script]
        yield Figure(case.name, value, "ns")
        yield Figure("  in echoes", value / echo, "times", most=case.most)
        for kind, most in ((IN_C, case.most_of_c), (IN_PYTHON, None)):
            if (kind, case.beside) in found:
                yield Figure(f"  to {kind}", value / found[kind, case.beside], "times", most=most)
    for (kind, script), value in found.items():
        if kind in (IN_C, IN_PYTHON):
            yield Figure(f"{kind}: {THEIRS[script]}", value, "ns")
            yield Figure("  in echoes", value / echo, "times")
