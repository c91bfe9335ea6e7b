"""Start-up: how long `vfuserver serve edu` takes from exec until it says `ready` and until it has answered a first
client, and an `upgrade` until the successor serves, beside a bare `python -c pass` in the same round.

Bytecode lies in a folder of the measurement's own, written by a first start that does not count: as installed, whatever
PYTHONDONTWRITEBYTECODE says. It must not know what is imported when.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.figure import Figure, over
from vfuserver.session.commands.version import Version
from vfuserver.wire import HEADER_SIZE, command_message

VFUSERVER: Final = (sys.executable, "-m", "vfuserver")
MOST_READY: Final = 250.0
"""Milliseconds."""


def run(rounds: int, progress: Callable[[int], None]) -> list[Figure]:
    """Everything, `rounds` times. CalledProcessError, RuntimeError: a process did not do what it was asked."""
    rows: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory(prefix="vfuserver-bench-") as folder:
        start = _Start(Path(folder))
        start.once()
        for _ in range(rounds):
            rows.append(start.once())
            progress(1)
    return over(_figures(row) for row in rows)


class _Start:
    """Starts processes whose bytecode and sockets lie in `folder`. Times are milliseconds, memory MiB."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "edu.sock"
        self._environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def once(self) -> dict[str, float]:
        began = time.perf_counter()
        self._run(sys.executable, "-c", "pass")
        bare = _since(began)
        began = time.perf_counter()
        with self._serving() as server:
            ready = _since(began)
            with socket.socket(socket.AF_UNIX) as client:
                self._negotiate(client)
                answered = _since(began)
                memory = _resident(server.pid)
                began = time.perf_counter()
                self._run(*VFUSERVER, "upgrade", str(self._socket))
                upgraded = _since(began)
        return {"bare": bare, "ready": ready, "answered": answered, "upgraded": upgraded, "memory": memory}

    def _run(self, *words: str) -> None:
        subprocess.run(words, env=self._environment, check=True, capture_output=True, timeout=60)

    def _negotiate(self, client: socket.socket) -> None:
        client.connect(str(self._socket))
        client.sendall(command_message(Version.number, 0, Version.request.build(major=0, minor=0, data=b"")))
        if len(client.recv(1 << 16)) <= HEADER_SIZE:
            raise RuntimeError("the server refused VERSION")

    @contextmanager
    def _serving(self) -> Iterator[subprocess.Popen[bytes]]:
        words = (*VFUSERVER, "serve", "edu", "--socket", str(self._socket), "--log-level", "error")
        with subprocess.Popen(words, env=self._environment, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            try:
                if not server.stdout.readline().startswith(b"ready"):
                    raise RuntimeError("the server did not start: see above")
                yield server
            finally:
                server.terminate()


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1e3


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def _figures(row: dict[str, float]) -> list[Figure]:
    return [
        Figure("python -c pass", row["bare"], "ms"),
        Figure("serve edu, from exec to ready", row["ready"], "ms", most=MOST_READY),
        Figure("serve edu, from exec to ready / python -c pass", row["ready"] / row["bare"], "x"),
        Figure("serve edu, from exec to a first client's answer", row["answered"], "ms"),
        Figure("upgrade, until the successor serves", row["upgraded"], "ms"),
        Figure("serve edu, resident with one client", row["memory"], "MiB"),
    ]
