"""A server is replaced under its client by `vfuserver upgrade`: the client notices nothing, or both go on as before."""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import PROGRAM, Eventfd, Server, eventually, one_device
from tests.interop.dma.conftest import COPY, DONE, PATTERN, SIZE, STATUS, dma, finish, start
from tests.interop.dma.conftest import REMOTE as TWIN_MEMORY
from tests.interop.test_raw_io_fds import ask
from tests.interop.test_raw_twin_socket import TwinClient, served

MESSAGES = 1000
PAGE = 4096
MEMORY, REMOTE = 0x100000, 0x800000
MSIX = 2
SCRATCH, DOORBELL, RUNG, RAISE, DELAY, SLOW = 0x04, 0x10, 0x14, 0x18, 0x44, 0x48
RUNNING, STOP, STOP_COPY, RESUMING = 2, 1, 3, 4
FEATURE, DATA_READ, DATA_WRITE = 16, 17, 18

MODEL = """
from vfuserver import Bar, Intx, KiB, Msi, PciDevice, PciIdentity, State

class Mine(PciDevice):
    '''A device that is edited.'''

    identity = PciIdentity(vendor=0x1234, device=0x0001, class_code=0xFF0000)
    capabilities = (Msi(vectors=4),)
    registers = Bar(0, size=4 * KiB)
    version = registers.ro(0x00, reset=1)
    value = registers.rw(0x04)
    written = State(0)
    # MORE

    @value.on_write
    def count(self, value: int) -> None:
        self.written += 1
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with one_device(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[raw.Client]:
    with raw.Client(server.path, timeout=30.0) as connection:
        connection.write(raw.CONFIG, 4, 7, 2)
        yield connection


def upgrade(server: Server) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "upgrade", server.path, "--json"], capture_output=True, text=True, timeout=60, check=False
    )


def upgraded(server: Server) -> float:
    """Replaces it; for how many milliseconds nobody served."""
    done = upgrade(server)
    assert done.returncode == 0, done.stderr + server.log()
    found = json.loads(done.stdout)
    assert Path(f"/proc/{found['pid']}").exists()
    return float(found["pause_ms"])


def test_client_keeps_memory_interrupts_registers_and_mappings(
    server: Server, client: raw.Client, eventfds: Callable[..., list[Eventfd]]
) -> None:
    """Twice, so that what was taken over is handed over, too."""
    memory = os.memfd_create("guest memory")
    os.ftruncate(memory, 4 * PAGE)
    client.dma_map(MEMORY, 4 * PAGE, memory)
    events = eventfds(8)
    client.arm(MSIX, [event.fd for event in events])
    for number in range(2):
        client.write(0, SCRATCH, 0xAB00 + number)
        client.write(2, 0x1000, 0xFACE0 + number, 8)
        assert upgraded(server) < 1000
        assert client.read(0, SCRATCH) == 0xAB00 + number
        assert client.read(2, 0x1000, 8) == 0xFACE0 + number
        content = os.urandom(PAGE)
        os.pwrite(memory, content, 0)
        assert dma(client, COPY, MEMORY, MEMORY + 2 * PAGE, PAGE) == DONE
        assert os.pread(memory, PAGE, 2 * PAGE) == content
        client.write(0, RAISE, 3)
        assert events[3].fires() == 1
        assert not any(event.fired() for event in events)
    client.dma_unmap(MEMORY, 4 * PAGE)
    os.close(memory)


def test_none_of_a_thousand_messages_is_lost_or_doubled(server: Server, client: raw.Client) -> None:
    data = b"".join(
        client.message(raw.REGION_WRITE, raw.ACCESS.pack(DOORBELL, 0, 4) + bytes(4)) for _ in range(MESSAGES)
    )
    replacing = threading.Thread(target=upgraded, args=(server,))
    replacing.start()
    for number in range(20):
        sending = threading.Thread(target=client.raw, args=(data,))
        sending.start()
        replies = [client.receive() for _ in range(MESSAGES)]
        sending.join()
        assert not any(reply.error for reply in replies)
        assert client.read(0, RUNG) == (number + 1) * MESSAGES
        if not replacing.is_alive():
            break
    replacing.join()
    assert "has taken over" in server.log()


def test_command_that_is_held_is_answered_before_the_upgrade(server: Server, client: raw.Client) -> None:
    client.write(0, DELAY, 1_500_000)
    ident = client.send(raw.REGION_READ, raw.ACCESS.pack(SLOW, 0, 4))
    began = time.monotonic()
    upgraded(server)
    assert time.monotonic() - began > 1.4
    assert client.reply(ident).error == 0


def test_device_that_waits_for_messages_of_dma_is_replaced_when_they_have_come(
    server: Server, client: raw.Client
) -> None:
    client.memory[REMOTE] = bytearray(os.urandom(2 * PAGE))
    client.dma_map(REMOTE, 2 * PAGE)
    start(client, COPY, REMOTE, REMOTE + PAGE, PAGE)
    replacing = threading.Thread(target=upgraded, args=(server,))
    replacing.start()
    time.sleep(1.0)  # the message lies there meanwhile, unanswered
    finish(client)
    assert client.read(0, STATUS) == DONE
    replacing.join()
    assert client.memory[REMOTE][:PAGE] == client.memory[REMOTE][PAGE:]


def test_none_of_the_rings_of_a_doorbell_is_lost_or_doubled(server: Server, client: raw.Client) -> None:
    """The eventfd is the same one, and whoever rings it need not know."""
    (bell,) = ask(client, raw.BAR0)
    replacing = threading.Thread(target=upgraded, args=(server,))
    replacing.start()
    rings = 0
    while replacing.is_alive():
        os.eventfd_write(bell.fd, 1)
        rings += 1
        time.sleep(0.0005)
    replacing.join()
    os.eventfd_write(bell.fd, 1000)
    assert eventually(lambda: client.read(0, RUNG) >= rings + 1000)
    assert client.read(0, RUNG) == rings + 1000
    os.close(bell.fd)


def test_twin_socket_goes_over_with_the_main_one(server: Server) -> None:
    with TwinClient(server.path) as client:
        client.write(raw.CONFIG, 4, 7, 2)
        client.memory[TWIN_MEMORY] = bytearray(PATTERN)
        client.dma_map(TWIN_MEMORY, SIZE)
        for _ in range(2):
            start(client, COPY, TWIN_MEMORY, TWIN_MEMORY + SIZE // 2, SIZE // 2)
            assert served(client) == DONE
            assert client.memory[TWIN_MEMORY] == PATTERN[: SIZE // 2] * 2
            client.memory[TWIN_MEMORY][:] = PATTERN
            upgraded(server)


def feature(client: raw.Client, index: int, data: bytes = b"", operation: int = 1 << 17) -> bytes:
    payload = (8 + max(len(data), 64)).to_bytes(4, "little") + (index | operation).to_bytes(4, "little") + data
    return client.request(FEATURE, payload).payload[8:]


def move(client: raw.Client, state: int) -> None:
    feature(client, 2, state.to_bytes(4, "little") + b"\xff\xff\xff\xff")


def read_all(client: raw.Client, pieces: int, upgrade_after: int, server: Server) -> bytes:
    """The stream in pieces, with an upgrade in between."""
    stream = b""
    for number in range(1 << 20):
        if number == upgrade_after:
            upgraded(server)
        payload = client.request(DATA_READ, (8 + pieces).to_bytes(4, "little") + pieces.to_bytes(4, "little")).payload
        size = int.from_bytes(payload[4:8], "little")
        stream += payload[8 : 8 + size]
        if size < pieces:
            break
    return stream


def test_migration_under_way_goes_on_in_the_new_process(server: Server, client: raw.Client) -> None:
    client.write(0, SCRATCH, 0x5A5A)
    move(client, STOP_COPY)
    whole = read_all(client, 10_000, -1, server)
    move(client, STOP)
    move(client, STOP_COPY)
    assert read_all(client, 10_000, 3, server) == whole
    move(client, RUNNING)
    client.write(0, SCRATCH, 0)
    move(client, STOP)
    move(client, RESUMING)
    for number, at in enumerate(range(0, len(whole), 10_000)):
        if number == 3:
            upgraded(server)
        piece = whole[at : at + 10_000]
        client.request(DATA_WRITE, (8 + len(piece)).to_bytes(4, "little") + len(piece).to_bytes(4, "little") + piece)
    move(client, RUNNING)
    assert client.read(0, SCRATCH) == 0x5A5A


def test_dirty_log_goes_on_in_the_new_process(server: Server, client: raw.Client) -> None:
    memory = os.memfd_create("guest memory")
    os.ftruncate(memory, 8 * PAGE)
    client.dma_map(MEMORY, 8 * PAGE, memory)
    feature(client, 6, PAGE.to_bytes(8, "little") + bytes(8))
    assert dma(client, COPY, MEMORY, MEMORY + 2 * PAGE, 10) == DONE
    upgraded(server)
    assert dma(client, COPY, MEMORY, MEMORY + 5 * PAGE, 10) == DONE
    asked = MEMORY.to_bytes(8, "little") + (8 * PAGE).to_bytes(8, "little") + PAGE.to_bytes(8, "little")
    assert feature(client, 8, asked, 1 << 16)[24:] == (1 << 2 | 1 << 5).to_bytes(8, "little")
    os.close(memory)


def test_client_that_comes_meanwhile_is_served_by_the_new_process(server: Server) -> None:
    upgraded(server)
    with raw.Client(server.path) as client:
        client.write(raw.CONFIG, 4, 7, 2)
        assert client.read(0, SCRATCH) == 0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MODEL)
    return path


@pytest.fixture
def own(tmp_path: Path, model: Path) -> Iterator[Server]:
    with one_device(tmp_path, device=f"{model}:Mine") as running:
        yield running


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("size=4 * KiB", "size=8 * KiB", r"BAR0.*8192.*4096|BAR0.*4096.*8192"),
        ("device=0x0001", "device=0x0002", "(?i)device.*0x0*2"),
        ("vectors=4", "vectors=2", "(?i)msi"),
        (
            "    written = State(0)\n",
            "    other = State(0)\n    @property\n    def written(self): return 0\n",
            "written",
        ),
        ("class Mine(", "class Yours(", "there is no|must be|Mine"),
        ("PciDevice):", "PciDevice:", "cannot be imported: SyntaxError"),
        ("# MORE", "raise RuntimeError('not today')", "not today"),
    ],
)
def test_other_device_is_refused_with_what_differs_and_the_old_process_goes_on(
    own: Server, model: Path, old: str, new: str, said: str
) -> None:
    with raw.Client(own.path) as client:
        client.write(raw.CONFIG, 4, 2, 2)
        client.write(0, 4, 77)
        model.write_text(MODEL.replace(old, new))
        done = upgrade(own)
        assert done.returncode != 0
        assert "the present process goes on" in done.stderr
        assert re.search(said, done.stderr), done.stderr
        assert client.read(0, 4) == 77
        client.write(0, 4, 78)
        assert client.read(0, 4) == 78
    assert own.process.poll() is None


def test_edited_device_goes_on_with_its_state(own: Server, model: Path) -> None:
    """A register that is new has its first value; what was written before is still there."""
    with raw.Client(own.path) as client:
        client.write(raw.CONFIG, 4, 2, 2)
        client.write(0, 4, 77)
        model.write_text(
            MODEL.replace("    # MORE", "    new = registers.ro(0x08, reset=0x900D)").replace("+= 1", "+= 2")
        )
        upgraded(own)
        assert client.read(0, 4) == 77
        assert client.read(0, 8) == 0x900D


def test_process_that_was_started_stands_for_the_one_that_serves(server: Server) -> None:
    """Before, and after it has become the parent of another one."""
    for _ in range(2):
        words = [PROGRAM, "upgrade", str(server.process.pid)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


def test_only_one_attempt_at_a_time(server: Server) -> None:
    attempts = [
        subprocess.Popen([PROGRAM, "upgrade", server.path], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [attempt.communicate(timeout=60)[1] for attempt in attempts]
    codes = sorted(attempt.returncode for attempt in attempts)
    assert codes[0] == 0, said
    assert all("replaced" in text for text in said if text)


def test_server_that_is_no_serve_says_that_it_cannot_be_replaced(tmp_path: Path) -> None:
    done = subprocess.run([PROGRAM, "upgrade", str(tmp_path / "x")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no socket" in done.stderr
