"""256 devices in one process (issue 6): idle ones cost next to nothing, and a busy one keeps nobody waiting."""

import re
import resource
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import ENGINE, PROGRAM, Server, eventually
from vfuserver.control import ControlClient, beside

DEVICES = 256
MOST_MEMORY = 64 << 10
"""Bytes of an idle connection."""
FEW_DESCRIPTORS = 64
BUSY, QUIET = 0, slice(1, 33)
BATCH = 300
LONG = 2.0
"""Seconds: a hot neighbour that had all of the server would take longer for 32 round trips, on any machine."""
LIVENESS = 0x04

pytestmark = pytest.mark.skipif(bool(ENGINE), reason="what another engine costs is its own affair")


def config(folder: Path, count: int, device: str = "edu") -> list[str]:
    """A configuration file with so many devices; their sockets."""
    paths = [str(folder / f"{number}") for number in range(count)]
    entries = [f'[[device]]\ndevice = "{device}"\nsocket = "{path}"\nname = "d{Path(path).name}"\n' for path in paths]
    (folder / "many.toml").write_text('log-level = "warning"\n' + "".join(entries))
    return paths


@contextmanager
def serving(folder: Path, count: int, device: str = "edu") -> Iterator[Server]:
    paths = config(folder, count, device)
    with open(folder / "log", "wb") as log, Server(folder, log, ["--config", str(folder / "many.toml")], paths) as it:
        yield it


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """All of them, started where few descriptors are allowed unless more are asked for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_DESCRIPTORS + DEVICES + 64, hard))
    try:
        with serving(tmp_path_factory.mktemp("many"), DEVICES) as server:
            yield server
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(scope="module")
def grown(many: Server) -> Iterator[tuple[list[raw.Client], float]]:
    """A client of each, and how many bytes each has cost."""
    with ExitStack() as stack:
        raw.Client(many.paths[0]).close()  # what the first one has imported is everybody's
        before = resident(many)
        clients = [stack.enter_context(raw.Client(path)) for path in many.paths]
        for client in clients:
            client.write(raw.CONFIG, 4, 7, 2)
        yield clients, (resident(many) - before) / DEVICES


def resident(server: Server) -> int:
    """Bytes, exactly: the sum in /proc/PID/status may lag behind."""
    found = re.search(r"^Rss:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) << 10


def switches(server: Server) -> int:
    """How often any of its threads has gone to sleep or was sent away."""
    text = "".join(path.read_text() for path in Path(f"/proc/{server.process.pid}/task").glob("*/status"))
    return sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", text)))


def test_every_device_answers_for_itself(grown: tuple[list[raw.Client], float]) -> None:
    clients, _ = grown
    for number, client in enumerate(clients):
        client.write(raw.BAR0, LIVENESS, number)
    assert [client.read(raw.BAR0, LIVENESS) ^ 0xFFFF_FFFF for client in clients] == list(range(DEVICES))


def test_idle_connection_costs_little_memory(grown: tuple[list[raw.Client], float]) -> None:
    """With all that a session is in Python, and both of its buffers."""
    _, each = grown
    assert 0 < each < MOST_MEMORY


def test_idle_connections_wake_nobody(many: Server, grown: tuple[list[raw.Client], float]) -> None:
    assert eventually(lambda: still(many, 0.5), 8)


def still(server: Server, seconds: float) -> bool:
    before = switches(server)
    time.sleep(seconds)
    return switches(server) == before


def test_inspect_of_one_of_them_tells_of_that_one(many: Server, grown: tuple[list[raw.Client], float]) -> None:
    with ControlClient(beside(Path(many.paths[200]))) as control:
        found = control.ask("inspect")
    assert "d200" in str(found)


@contextmanager
def flood(client: raw.Client) -> Iterator[None]:
    """Keeps many writes that run Python under way."""
    data = raw.ACCESS.pack(LIVENESS, raw.BAR0, 4) + bytes(4)
    batch = b"".join(client.message(raw.REGION_WRITE, data) for _ in range(BATCH))
    over = threading.Event()

    def send() -> None:
        client.raw(batch)
        while not over.is_set():
            client.raw(batch)
            for _ in range(BATCH):
                client.receive()
        for _ in range(BATCH):
            client.receive()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_flooding_neighbour_keeps_nobody_waiting(grown: tuple[list[raw.Client], float]) -> None:
    """By default, where the server polls for the next message of whoever is busy."""
    clients, _ = grown
    with flood(clients[BUSY]):
        began = time.monotonic()
        for client in clients[QUIET]:
            client.read(raw.BAR0, 0)
        assert time.monotonic() - began < LONG


def test_connection_that_was_busy_gives_its_buffers_back(tmp_path: Path) -> None:
    """A MiB has gone each way in one message; then nothing comes. The device's own memory was all in use before."""
    with serving(tmp_path, 9, "testdev") as server, ExitStack() as stack:
        first, *clients = [stack.enter_context(raw.Client(path)) for path in server.paths]
        for client in (first, *clients):
            client.write(raw.CONFIG, 4, 7, 2)
            for offset in range(0, 1 << 20, 1 << 14):
                client.write_bytes(raw.BAR2, offset, bytes(1 << 14))
        first.read_bytes(raw.BAR2, 0, 1 << 20)  # the allocator keeps some of it for all
        before = resident(server)
        for client in clients:
            client.write_bytes(raw.BAR2, 0, client.read_bytes(raw.BAR2, 0, 1 << 20))
        assert resident(server) - before > len(clients) << 20
        assert eventually(lambda: (resident(server) - before) / len(clients) < MOST_MEMORY, 8)
        for client in clients:
            assert client.read_bytes(raw.BAR2, 0, 1 << 20) == bytes(1 << 20)


def test_too_few_descriptors_are_said_with_the_device_that_has_none(tmp_path: Path) -> None:
    config(tmp_path, 40, "testdev")
    ended = subprocess.run(
        [PROGRAM, "serve", "--config", str(tmp_path / "many.toml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FEW_DESCRIPTORS, FEW_DESCRIPTORS)),
    )
    assert ended.returncode == 2
    assert re.search(
        rf"d\S+ cannot be served .* may have {FEW_DESCRIPTORS} descriptors.* raise the limit", ended.stderr
    )
    assert "Traceback" not in ended.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.toml"]
