"""A server whose stream may have a ledger, copies of ledgers, and what a client may see when its server is killed."""

import errno
import fcntl
import mmap
import os
import random
import socket
import struct
import termios
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.native.messages import ERROR, REPLY, message, replies
from vfuserver import _core

MAX = 1 << 20
HEAD = 65536
"""Bytes before the rings, of which RECORDS are used."""
RECORDS = 24576
LATER, DESCRIPTOR, OURS = 50, 51, 52
"""Command numbers of these tests: answered later, answered with a descriptor, a message of the server's own."""
MIG_DATA_READ = 17
STATE = random.Random(17).randbytes(MAX)
"""What that is answered with: pieces of these, of which the payload says where they begin."""

MEMORY = 1 << 16
LAYOUT = _core.Layout(
    2 * MEMORY,
    [
        (0, 4, 2, b"TESTMORE", 0xFFFFFFFF, 0, 0, 0, 0, 0),
        (MEMORY, 1, MEMORY, bytes(range(256)) * (MEMORY // 256), 0xFF, 0, 0, 0, 0, _core.MEMORY),
    ],
)

Reply = tuple[int, int, int, int, bytes]
Send = tuple[bytes, int | None]
"""What one sendmsg carries."""


class Journal:
    """What a device was told, in memory that outlives its process and that a fork shares. Each number is one store
    (struct.pack_into is two: it clears first)."""

    def __init__(self, entries: Sequence[int] = ()) -> None:
        self._words = memoryview(mmap.mmap(-1, 1 << 16)).cast("I")  # how many, and these
        for entry in entries:
            self.append(entry)

    def append(self, entry: int) -> None:
        count = self._words[0]
        self._words[count + 1] = entry
        self._words[0] = count + 1

    def clear(self) -> None:
        self._words[0] = 0

    def entries(self) -> list[int]:
        return self._words[1 : self._words[0] + 1].tolist()


class Server:
    """A register table as region 0, as region 1 a window whose writes go to the journal, and a few commands."""

    def __init__(self, journal: Journal | None = None) -> None:
        self.journal = journal or Journal()
        self.laters: list[object] = []
        self.on_later: Callable[[object], None] = self.laters.append
        self.stream = _core.Stream(self._command, self._reply, max_transfer=MAX, on_later=lambda it: self.on_later(it))
        self.stream.regions = [(2 * MEMORY, _core.Table(LAYOUT)), (256, self._window)]
        self.stream.negotiated = True

    def _window(self, _: int, count: int, data: bytes | None) -> object:
        if data is None:
            return bytes(count)
        self.journal.append(int.from_bytes(data, "little"))
        return None

    def _command(self, number: int, tag: int, flags: int, payload: bytes, fds: list[int]) -> object:
        for fd in fds:
            os.close(fd)
        if number == LATER:
            return self
        if number == DESCRIPTOR:
            return payload, [0]
        if number == MIG_DATA_READ:
            return [payload, memoryview(STATE)[payload[0] :], STATE[: payload[0]]]
        return payload + bytes([len(fds)])

    def _reply(self, number: int, tag: int, error: int, payload: bytes, fds: list[int]) -> None:
        pass

    def answer(self) -> None:
        """Everything that waits for an answer gets one."""
        while self.laters:
            self.laters.pop()
            self.stream.complete(b"done")

    def finish(self, sends: Sequence[Send] = ()) -> bytes:
        """Serves what there is and what is sent now, to the end; the answer's bytes. Descriptors are duplicated."""
        sent = self._take(self.stream.feed(b""))
        for data, fd in sends:
            sent += self._take(self.stream.feed(data, [] if fd is None else [os.dup(fd)]))
        while self.laters:
            self.answer()
            sent += self._take(self.stream.take())
        return sent

    @staticmethod
    def _take(output: Iterable[tuple[bytes, tuple[int, ...]]]) -> bytes:
        chunks = []
        for data, fds in output:
            chunks.append(data)
            for fd in fds:
                os.close(fd)
        return b"".join(chunks)


def write_to_journal(number: int, tag: int, flags: int = 0) -> bytes:
    """A write of region 1 that the journal shows."""
    return message(10, struct.pack("<QIII", 0, 1, 4, number), tag=tag, flags=flags)


def copy_of(ledger: int, touched: int = 1 << 14) -> _core.Ledger:
    """A ledger with the same contents, as far as its rings were touched."""
    copy = _core.Ledger(MAX)
    ring = (os.fstat(ledger).st_size - HEAD) // 2
    for at, length in ((0, RECORDS), (HEAD, touched), (HEAD + ring, touched)):
        os.pwrite(copy.fd, os.pread(ledger, length, at), at)
    return copy


def queued(sock: socket.socket) -> int:
    """Bytes that were sent to this socket, and not received yet."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0])


@dataclass
class Client:
    """What the client has sent and received, and what it may expect."""

    sends: list[Send]
    received: bytes = b""

    def expected(self) -> tuple[list[Reply], list[int]]:
        """Replies and journal when nobody is killed and there is no ledger."""
        server = Server()
        got = replies(server.finish(self.sends))
        server.stream.close()
        return [reply for reply in got if reply[2] & 0xF == REPLY], server.journal.entries()

    def take(self, sock: socket.socket, most: int = 1 << 20) -> None:
        """Reads what there is, about so many bytes."""
        try:
            while most > 0:
                data = sock.recv(16384, socket.MSG_DONTWAIT)
                self.received += data
                most -= len(data)
        except BlockingIOError:
            pass

    def rest(self, server: socket.socket) -> list[Send]:
        """What is in the server's socket."""
        left, found = queued(server), []
        for data, fd in reversed(self.sends):
            if left:
                found.append((data[-left:], fd))
                left -= len(found[-1][0])
        return found[::-1]


def assert_served(got: list[Reply], expected: list[Reply], *, most: int) -> None:
    """Every command was answered once, in order and as expected, or (at most so many) with EIO; no message of the
    server's own came twice."""
    answers = [reply for reply in got if reply[2] & 0xF == REPLY]
    assert [reply[:2] for reply in answers] == [reply[:2] for reply in expected]
    for answer, right in zip(answers, expected, strict=True):
        assert answer == right or answer[2:] == (REPLY | ERROR, errno.EIO, b"")
    assert sum(1 for answer in answers if answer[2] & ERROR) <= most
    ours = [tag for tag, _, flags, _, _ in got if flags & 0xF != REPLY]
    assert len(set(ours)) == len(ours)


def assert_failed(got: list[Reply], tags: list[int]) -> None:
    """These commands failed, and no other."""
    assert [tag for tag, _, flags, _, _ in got if flags & ERROR] == tags


def assert_journal(entries: list[int], expected: list[int], *, doubtful: int) -> None:
    """Every write was done once and in order, but for so many that failed: these were done or not."""
    missing = [entry for entry in expected if entry not in entries]
    assert len(missing) <= doubtful
    assert entries == [entry for entry in expected if entry not in missing]
