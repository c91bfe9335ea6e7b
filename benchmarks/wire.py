"""The wire cases: testdev behind a polling pump in one process, a polling C client in another.

Both sides poll, so what is timed is the code and the socket, not the wake-ups of the kernel. Each round starts a fresh
echo; the server lives through all rounds.
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figure import Figure

CLIENT = Path(__file__).with_name("wire.c")
READS, BATCH, BATCHES = 10000, 256, 200


@dataclass(frozen=True)
class Case:
    """One measurement: a line of the client's script, and at most how many echo round trips it may cost."""

    name: str
    script: str
    target: float | None


CASES = (
    Case("plain register read (BAR1)", f"read 1 0 {READS}", 1.25),
    Case("hooked register read (BAR0)", f"read 0 4 {READS}", 1.4),
    Case(f"posted write, plain, of a batch of {BATCH}", f"post 1 0 {BATCH} {BATCHES}", 1 / 25),
    Case(f"posted write, hooked, of a batch of {BATCH}", f"post 0 4 {BATCH} {BATCHES}", 1 / 7),
)
ECHO = Case("bare echo, round trip", "", None)


def run(rounds: int, progress: Callable[[int], None]) -> list[Figure]:
    """Times every case `rounds` times, interleaved with the echo. RuntimeError if the server does not start."""
    samples: dict[Case, list[float]] = {case: [] for case in (ECHO, *CASES)}
    with tempfile.TemporaryDirectory(prefix="vfuserver-bench-") as folder:
        client = compiled(Path(folder))
        with _polling_server(Path(folder) / "testdev.sock") as path:
            for _ in range(rounds):
                samples[ECHO].append(_echo(client))
                for case, value in zip(CASES, _session(client, path), strict=True):
                    samples[case].append(value)
                progress(1)
    medians = {case: statistics.median(values) for case, values in samples.items()}
    return [figure for case, median in medians.items() for figure in _figures(case, median, median / medians[ECHO])]


def _figures(case: Case, median: float, ratio: float) -> list[Figure]:
    nanoseconds = Figure(case.name, median, "ns")
    return [nanoseconds] if case is ECHO else [nanoseconds, Figure("  in echoes", ratio, "times", most=case.target)]


def compiled(folder: Path) -> Path:
    """The client."""
    client = folder / "wire"
    subprocess.run(["cc", "-O2", "-o", client, CLIENT], check=True)
    return client


def _echo(client: Path) -> float:
    return float(subprocess.run([client, "echo"], check=True, capture_output=True, text=True, timeout=60).stdout)


def _session(client: Path, path: Path) -> list[float]:
    script = "write 7 4 7\n" + "".join(f"{case.script}\n" for case in CASES)
    done = subprocess.run(
        [client, "session", path], input=script, check=True, capture_output=True, text=True, timeout=120
    )
    return [float(line) for line in done.stdout.split()]


@contextmanager
def _polling_server(path: Path) -> Iterator[Path]:
    with subprocess.Popen([sys.executable, "-m", "benchmarks.polling", path], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            if not server.stdout.readline():
                raise RuntimeError("the polling server did not start: see above")
            yield path
        finally:
            server.terminate()
