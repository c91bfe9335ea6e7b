"""Many devices in one process: 256 of edu behind one `serve --config`, beside the same server with one device.

How long until all are ready; what an idle connection costs (memory, and the processor: nothing); what a neighbour that
floods the server does to a round trip of the others, in the default mode. Memory is what the kernel counts as the
process's own (Rss of smaps_rollup), with all that a session is in Python. It must not know how it is served.
"""

import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.figure import Figure
from vfuserver.session.commands.region_read import RegionRead
from vfuserver.session.commands.region_write import RegionWrite
from vfuserver.session.commands.version import Version
from vfuserver.wire import HEADER_SIZE, command_message

VFUSERVER: Final = (sys.executable, "-m", "vfuserver")
DEVICES: Final = 256
IDLE_SECONDS: Final = 1.0
SETTLING: Final = 2.0
"""Seconds after which buffers of the past are given back."""
TRIPS: Final = 200
FLOOD: Final = 400
"""Writes that a hot neighbour has under way."""
MOST_KIB: Final = 64.0
ACCESS_SIZE: Final = 16
"""Bytes of a write's reply behind its header."""
BAR0: Final = 0
CONFIG: Final = 7


class Many:
    """`count` devices in one process, and clients of them. Bounded waits everywhere: TimeoutError."""

    def __init__(self, folder: Path, count: int = DEVICES) -> None:
        self.sockets = [folder / f"{number}.sock" for number in range(count)]
        self._config = folder / "many.toml"
        entries = (f'[[device]]\ndevice = "edu"\nsocket = "{path}"\nname = "{path.stem}"\n' for path in self.sockets)
        self._config.write_text('log-level = "error"\n' + "".join(entries))
        self.pid = 0
        self.ready = 0.0
        """Seconds from exec to the last ready line."""

    @contextmanager
    def serving(self) -> Iterator[None]:
        """RuntimeError: it did not start."""
        began = time.perf_counter()
        words = (*VFUSERVER, "serve", "--config", str(self._config))
        with subprocess.Popen(words, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            try:
                for _ in self.sockets:
                    if not server.stdout.readline().startswith(b"ready"):
                        raise RuntimeError("the server did not start: see above")
                self.ready, self.pid = time.perf_counter() - began, server.pid
                yield
            finally:
                server.terminate()

    def connect(self, number: int) -> socket.socket:
        """A client that has said VERSION and enabled the device's memory."""
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(30)
        client.connect(str(self.sockets[number]))
        ask(client, command_message(Version.number, 0, Version.request.build(major=0, minor=0, data=b"")))
        ask(client, write(CONFIG, 4, (7).to_bytes(2, "little")))
        return client

    def resident(self) -> float:
        """KiB."""
        found = re.search(r"^Rss:\s+(\d+) kB", Path(f"/proc/{self.pid}/smaps_rollup").read_text(), re.MULTILINE)
        if found is None:
            raise RuntimeError("the kernel does not say what the server has in memory")
        return float(found[1])

    def wakeups(self) -> int:
        """How often the process has gone to sleep, or was sent away."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return sum(int(number) for number in re.findall(r"ctxt_switches:\s+(\d+)", text))

    def cpu(self) -> float:
        """Milliseconds of processor time."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def read(offset: int) -> bytes:
    """A REGION_READ of 4 bytes of BAR0."""
    return command_message(RegionRead.number, 1, RegionRead.request.build(offset=offset, region=BAR0, count=4))


def write(region: int, offset: int, data: bytes) -> bytes:
    """A REGION_WRITE."""
    payload = RegionWrite.request.build(offset=offset, region=region, count=len(data), data=data)
    return command_message(RegionWrite.number, 1, payload)


def ask(client: socket.socket, message: bytes) -> None:
    """Sends a command, and waits for its reply. RuntimeError: there is none."""
    client.sendall(message)
    if len(client.recv(1 << 16)) < HEADER_SIZE:
        raise RuntimeError("the server has ended the connection")


@contextmanager
def flooding(client: socket.socket) -> Iterator[None]:
    """Somebody who always has FLOOD writes of a hooked register under way, as fast as they are answered."""
    message, over = write(BAR0, 0x04, bytes(4)), threading.Event()
    client.sendall(message * FLOOD)

    def flood() -> None:
        size, left = HEADER_SIZE + ACCESS_SIZE, 0
        while not over.is_set():
            left += len(client.recv(1 << 16))
            answered, left = divmod(left, size)
            client.sendall(message * answered)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def trips(client: socket.socket, count: int = TRIPS) -> list[float]:
    """Microseconds of `count` round trips."""
    message, times = read(0x00), []
    for _ in range(count):
        began = time.perf_counter()
        ask(client, message)
        times.append((time.perf_counter() - began) * 1e6)
    return times


def run(rounds: int, progress: Callable[[int], None]) -> list[Figure]:
    """Everything, `rounds` times. RuntimeError, TimeoutError: the server did not do what it was asked."""
    rows = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="vfu-") as one, tempfile.TemporaryDirectory(prefix="vfu-") as many:
            rows.append(_once(Many(Path(one), 1), Many(Path(many))))
        progress(1)
    return _figures({name: statistics.median(row[name] for row in rows) for name in rows[0]})


def _once(one: Many, many: Many) -> dict[str, float]:
    with one.serving():
        pass
    with many.serving(), ExitStack() as clients:
        clients.enter_context(many.connect(0)).close()  # what the first client has imported is not counted
        time.sleep(SETTLING)
        before = many.resident()
        connected = [clients.enter_context(many.connect(number)) for number in range(DEVICES)]
        time.sleep(SETTLING)
        memory = (many.resident() - before) / DEVICES
        cpu, wakeups = many.cpu(), many.wakeups()
        time.sleep(IDLE_SECONDS)
        cpu, wakeups = many.cpu() - cpu, many.wakeups() - wakeups
        alone = trips(connected[1])
        with flooding(connected[0]):
            beside = trips(connected[1])
    return {
        "one": one.ready * 1e3,
        "each": (many.ready - one.ready) * 1e3 / (DEVICES - 1),
        "ready": many.ready * 1e3,
        "memory": memory,
        "cpu": cpu / IDLE_SECONDS,
        "wakeups": wakeups / IDLE_SECONDS,
        "alone": statistics.median(alone),
        "beside": statistics.median(beside),
        "worst": max(beside),
    }


def _figures(median: dict[str, float]) -> list[Figure]:
    return [
        Figure("one device, from exec to ready", median["one"], "ms"),
        Figure(f"{DEVICES} devices, from exec to ready", median["ready"], "ms"),
        Figure("each further device", median["each"], "ms"),
        Figure("memory of an idle connection", median["memory"], "KiB", most=MOST_KIB),
        Figure(f"{DEVICES} idle connections, processor time in a second", median["cpu"], "ms", most=0.0),
        Figure(f"{DEVICES} idle connections, wake-ups in a second", median["wakeups"], "", most=0.0),
        Figure("round trip, alone", median["alone"], "us"),
        Figure("round trip, one neighbour floods", median["beside"], "us"),
        Figure("the slowest of them", median["worst"], "us"),
        Figure("round trip, one neighbour floods / alone", median["beside"] / median["alone"], "x"),
    ]
