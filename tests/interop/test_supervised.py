"""A supervised server is killed, again and again: its clients go on, and lose no more than was promised."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import PROGRAM, Eventfd, Server, eventually, one_device
from tests.interop.dma.conftest import COPY, DONE, PATTERN, SIZE, dma, finish, start
from tests.interop.dma.conftest import REMOTE as TWIN_MEMORY
from tests.interop.test_raw_io_fds import ask
from tests.interop.test_raw_twin_socket import TwinClient, served

ROUNDS = int(os.environ.get("VFUSERVER_KILLS", "12"))
"""`make stress` has a hundred."""
MESSAGES = 1000
CHECKPOINT = 0.05
SCRATCH, DOORBELL, RUNG, RAISE = 0x04, 0x10, 0x14, 0x18
PAGE = 4096
MEMORY, REMOTE = 0x100000, 0x800000
MSIX = 2
IDENTIFICATION = 0x54534554


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with one_device(tmp_path, "--supervise", "--checkpoint", str(CHECKPOINT)) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[raw.Client]:
    with raw.Client(server.path, timeout=30.0) as connection:
        connection.write(raw.CONFIG, 4, 7, 2)
        yield connection


def children(parent: int) -> list[int]:
    """A process's children that live."""
    listed = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX":
                listed.append(int(child))
    return listed


def serving(server: Server) -> int:
    """The process that serves: the supervisor's child that lives."""
    while not (found := children(server.process.pid)):
        time.sleep(0.001)
    return found[0]


def kill(server: Server) -> None:
    os.kill(serving(server), signal.SIGKILL)


def mixture(client: raw.Client, rng: random.Random) -> tuple[bytes, list[int]]:
    """Messages of many kinds, and the ids of those that are answered."""
    data, ids = bytearray(), []
    for _ in range(MESSAGES):
        region, offset, width = rng.choice([(0, SCRATCH, 4), (0, DOORBELL, 4), (1, 0, 8), (2, 0x200, 64), (7, 0, 64)])
        posted = rng.random() < 0.2
        if posted or (rng.random() < 0.5 and region != raw.CONFIG):
            payload = raw.ACCESS.pack(offset, region, width) + rng.randbytes(width)
            data += client.message(raw.REGION_WRITE, payload, flags=raw.NO_REPLY if posted else 0)
        else:
            posted = False
            data += client.message(raw.REGION_READ, raw.ACCESS.pack(offset, region, width))
        if not posted:
            ids.append(client._ident)
    return bytes(data), ids


def replies(client: raw.Client, ids: list[int]) -> list[int]:
    """Takes one reply for each id, in this order; the errnos of those that are errors."""
    messages = [client.receive() for _ in ids]
    assert [message.ident for message in messages] == ids
    return [message.error for message in messages if message.flags & raw.ERROR]


def test_client_survives_kills_in_the_middle_of_a_thousand_messages(
    server: Server, client: raw.Client, eventfds: Callable[..., list[Eventfd]]
) -> None:
    """At most the request in hand errs; every other one is answered once, in order."""
    memory = os.memfd_create("guest memory")
    os.ftruncate(memory, 4 * PAGE)
    client.dma_map(MEMORY, 4 * PAGE, memory)
    (event,) = eventfds()
    client.arm(MSIX, [event.fd] * 8)
    rng, erred = random.Random(ROUNDS), 0
    for number in range(ROUNDS):
        data, ids = mixture(client, rng)
        sending = threading.Thread(target=client.raw, args=(data,))
        sending.start()
        time.sleep(rng.random() * 0.02)
        kill(server)
        errors = replies(client, ids)
        sending.join()
        assert errors in ([], [errno.EIO]), f"round {number}"
        erred += len(errors)
        content = rng.randbytes(PAGE)
        os.pwrite(memory, content, 0)
        client.write(raw.CONFIG, 4, 7, 2)  # the device is what it was, when it was kept last: perhaps not enabled
        assert dma(client, COPY, MEMORY, MEMORY + 2 * PAGE, PAGE) == DONE
        assert os.pread(memory, PAGE, 2 * PAGE) == content
        event.fired()
        client.write(0, RAISE, 3)
        assert event.fires()
    os.close(memory)
    assert erred <= ROUNDS
    assert server.log().count("another one goes on") == ROUNDS


def test_device_is_what_it_was_when_it_was_kept_last(server: Server, client: raw.Client) -> None:
    client.write(0, SCRATCH, 0x1234)
    time.sleep(4 * CHECKPOINT)
    kill(server)
    assert client.read(0, SCRATCH) == 0x1234
    client.write(2, 0x1000, 0xFACE, 8)
    kill(server)
    assert client.read(2, 0x1000, 8) == 0xFACE, "memory that clients may map is as it was left"


def test_reset_is_not_undone_by_a_death(server: Server, client: raw.Client) -> None:
    client.write(0, SCRATCH, 0x1234)
    time.sleep(4 * CHECKPOINT)
    client.reset()
    kill(server)
    client.write(raw.CONFIG, 4, 7, 2)
    assert client.read(0, SCRATCH) == 0


def test_unmapped_memory_stays_unmapped_after_a_death(server: Server, client: raw.Client) -> None:
    memory = os.memfd_create("guest memory")
    os.ftruncate(memory, 2 * PAGE)
    client.dma_map(MEMORY, PAGE, memory)
    client.dma_map(MEMORY + PAGE, PAGE, memory, offset=PAGE)
    client.dma_unmap(MEMORY + PAGE, PAGE)
    kill(server)
    client.write(raw.CONFIG, 4, 7, 2)
    assert dma(client, COPY, MEMORY, MEMORY, 64) == DONE
    assert dma(client, COPY, MEMORY + PAGE, MEMORY, 64) == 0x80000000 | errno.EFAULT
    with pytest.raises(raw.RefusedError):
        client.dma_unmap(MEMORY + PAGE, PAGE)
    os.close(memory)


def test_doorbell_s_eventfd_outlives_the_server(server: Server, client: raw.Client) -> None:
    (bell,) = ask(client, raw.BAR0)
    kill(server)
    client.write(raw.CONFIG, 4, 7, 2)
    before = client.read(0, RUNG)
    os.eventfd_write(bell.fd, 5)
    assert eventually(lambda: client.read(0, RUNG) == before + 5)
    os.close(bell.fd)


def test_device_that_cannot_be_kept_is_refused_at_the_start(tmp_path: Path) -> None:
    source = tmp_path / "still.py"
    source.write_text("from vfuserver_devices.edu import Edu\nclass Still(Edu):\n    migrates = False\n")
    words = [PROGRAM, "serve", f"{source}:Still", "--socket", str(tmp_path / "socket"), "--supervise"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 2
    assert "--supervise: " in done.stderr


def test_reply_to_a_message_of_the_dead_process_is_taken_for_no_other(server: Server) -> None:
    """Its device waits for it no more, and the one that goes on asks under other ids."""
    with raw.Client(server.path, timeout=30.0) as client:
        client.memory[REMOTE] = bytearray(os.urandom(2 * PAGE))
        client.dma_map(REMOTE, 2 * PAGE)
        for _ in range(3):
            client.write(raw.CONFIG, 4, 7, 2)
            start(client, COPY, REMOTE, REMOTE + PAGE, PAGE)
            asked = client.receive_dma()
            kill(server)
            client.answer(asked)
            client.write(raw.CONFIG, 4, 7, 2)
            finish(client)
            client.memory[REMOTE][:PAGE] = os.urandom(PAGE)
            assert dma(client, COPY, REMOTE, REMOTE + PAGE, PAGE) == DONE
            assert client.memory[REMOTE][:PAGE] == client.memory[REMOTE][PAGE:]


def test_twin_socket_outlives_the_server(server: Server) -> None:
    with TwinClient(server.path) as client:
        client.write(raw.CONFIG, 4, 7, 2)
        client.memory[TWIN_MEMORY] = bytearray(PATTERN)
        client.dma_map(TWIN_MEMORY, SIZE)
        for _ in range(2):
            start(client, COPY, TWIN_MEMORY, TWIN_MEMORY + SIZE // 2, SIZE // 2)
            assert served(client) == DONE
            assert client.memory[TWIN_MEMORY] == PATTERN[: SIZE // 2] * 2
            client.memory[TWIN_MEMORY][:] = PATTERN
            kill(server)
            client.write(raw.CONFIG, 4, 7, 2)
            served(client)  # what was under way when the device was kept last is done once more


def test_next_client_is_served_after_a_death_without_one(server: Server) -> None:
    kill(server)
    with raw.Client(server.path) as client:
        client.write(raw.CONFIG, 4, 7, 2)
        assert client.read(0, 0) == IDENTIFICATION


def test_server_that_dies_at_once_again_and_again_is_given_up(tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    words = [PROGRAM, "serve", "testdev", "--socket", str(socket), "--supervise"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        supervisor.stdout.readline()
        while supervisor.poll() is None:
            for child in children(supervisor.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.001)
        _, log = supervisor.communicate()
    assert supervisor.returncode == 1
    assert "given up" in log or "could not go on" in log
