"""A thread of a model's own, in a server's process, against what a client ends its DMA by: a reply is a promise.

What each command does to a copy under way is in tests/device/test_threads.py; here the loop's thread serves a socket.
"""

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server, capabilities, eventually, model, one_device
from tests.interop.models import IOVA

SMALL, LARGE = 64, 4 << 20
"""Bytes of a copy: LARGE is beyond what the core copies with the interpreter's lock held."""
STORED, REFUSED = 0, 1
PM, EXPRESS = 0x01, 0x10
D0, D3HOT = 0, 3
ALL, NO_MASTER = 7, 3


class Thread:
    """What can be seen of the model's thread: a file of two counts."""

    def __init__(self, server: Server, counts: Path) -> None:
        self.server = server
        with counts.open("r+b") as file:
            self._file = mmap.mmap(file.fileno(), 16)
        self._counts = memoryview(self._file).cast("Q")

    def close(self) -> None:
        """The file is not looked at any more."""
        self._counts.release()
        self._file.close()

    def until(self, count: int) -> None:
        """Two more writes have ended so: the second has begun after now."""
        goal = self._counts[count] + 2
        assert eventually(lambda: self._counts[count] >= goal, 20), self.server.log()


Mapped = Callable[[raw.Client], mmap.mmap]


@pytest.fixture
def mapped() -> Iterator[Mapped]:
    """Maps new client memory at IOVA by DMA_MAP; what is returned is the client's view of it."""
    made: list[mmap.mmap] = []

    def make(client: raw.Client) -> mmap.mmap:
        fd = os.memfd_create("guest", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, LARGE)
            made.append(mmap.mmap(fd, LARGE))
            client.dma_map(IOVA, LARGE, fd)
        finally:
            os.close(fd)
        return made[-1]

    yield make
    for view in made:
        view.close()


@pytest.fixture
def thread(tmp_path: Path) -> Iterator[Thread]:
    counts = tmp_path / "counts"
    counts.write_bytes(bytes(16))
    with (
        one_device(tmp_path, "--set", f"counts={counts}", device=model("Writer")) as server,
        contextlib.closing(Thread(server, counts)) as seen,
    ):
        yield seen


@pytest.fixture
def client(thread: Thread) -> Iterator[raw.Client]:
    with raw.Client(thread.server.path) as connection:
        connection.write(raw.CONFIG, 4, ALL, 2)
        yield connection


def at(client: raw.Client, ident: int) -> int:
    return capabilities(client.read_bytes(raw.CONFIG, 0, 256))[ident]


def begin(client: raw.Client) -> None:
    """As a driver does after any of ENDS."""
    client.write(raw.CONFIG, at(client, PM) + 4, D0, 2)
    client.write(raw.CONFIG, 4, ALL, 2)


ENDS: dict[str, Callable[[raw.Client], object]] = {
    "COMMAND": lambda client: client.write(raw.CONFIG, 4, NO_MASTER, 2),
    "D3hot": lambda client: client.write(raw.CONFIG, at(client, PM) + 4, D3HOT, 2),
    "FLR": lambda client: client.write(raw.CONFIG, at(client, EXPRESS) + 9, 0x80, 1),
    "reset": raw.Client.reset,
}


@pytest.mark.parametrize("length", [SMALL, LARGE])
@pytest.mark.parametrize("end", ENDS)
def test_no_byte_moves_after_the_reply_to_what_ended_dma(
    thread: Thread, client: raw.Client, mapped: Mapped, end: str, length: int
) -> None:
    """S2.33, S2.15, S2.26, S0.6: two hundred times, and what was under way is whole."""
    ram = mapped(client)
    client.write(raw.BAR0, 0, length)
    for _ in range(200):
        thread.until(STORED)
        ENDS[end](client)
        after = ram[:length]
        thread.until(REFUSED)
        assert ram[:length] == after
        assert after == after[:1] * length
        begin(client)


@pytest.mark.parametrize("length", [SMALL, LARGE])
def test_no_byte_moves_after_the_reply_to_unmap(
    thread: Thread, client: raw.Client, mapped: Mapped, length: int
) -> None:
    """S2.33, S1.9: however large the copy that was under way, and it is whole."""
    client.write(raw.BAR0, 0, length)
    for _ in range(10):
        ram = mapped(client)
        thread.until(STORED)
        client.dma_unmap(IOVA, LARGE)
        after = ram[:]
        thread.until(REFUSED)
        assert ram[:] == after
        assert len(set(after[:length])) == 1


@pytest.mark.parametrize("length", [SMALL, LARGE])
def test_no_byte_moves_after_the_next_client_is_answered(
    thread: Thread, client: raw.Client, mapped: Mapped, length: int
) -> None:
    """S2.33: the memory of a client that has gone is nobody's, whatever was under way when it went."""
    client.write(raw.BAR0, 0, length)
    for _ in range(5):
        with raw.Client(thread.server.path) if client.socket.fileno() < 0 else client as one:
            begin(one)
            ram = mapped(one)
            thread.until(STORED)
        with raw.Client(thread.server.path) as following:
            after = ram[:]
            begin(following)
            thread.until(REFUSED)
            assert ram[:] == after


@pytest.mark.parametrize("length", [SMALL, LARGE])
def test_commands_are_answered_in_order_while_a_thread_copies(
    thread: Thread, client: raw.Client, mapped: Mapped, length: int
) -> None:
    """S2.33, S1.11: COMMAND, power, resets, BAR accesses, maps and unmaps without a pause; nothing hangs or is torn."""
    client.write(raw.BAR0, 0, length)
    for _ in range(10):
        ram = mapped(client)
        for end in ENDS.values():
            begin(client)
            end(client)
        begin(client)
        reads = [client.send(raw.REGION_READ, raw.ACCESS.pack(0, raw.BAR0, 4)) for _ in range(20)]
        assert {client.reply(ident).payload[-4:] for ident in reads} == {bytes(4)}
        thread.until(STORED)
        client.dma_unmap(IOVA, LARGE)
        assert len(set(ram[:length])) == 1
