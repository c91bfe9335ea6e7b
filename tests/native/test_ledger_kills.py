"""SIGKILL at any time: one connection, a server that is killed in the middle of 1000 pipelined messages and followed by
another, again and again. (What a kill at one given instruction leaves: test_ledger_steps.)"""

import os
import random
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from tests.native.ledgers import (
    DESCRIPTOR,
    LATER,
    MAX,
    MEMORY,
    MIG_DATA_READ,
    STATE,
    Client,
    Journal,
    Server,
    assert_journal,
    assert_served,
    queued,
    write_to_journal,
)
from tests.native.messages import ERROR, NO_REPLY, REPLY, message, read, replies
from vfuserver import _core

ROUNDS = int(os.environ.get("STRESS_KILLS", "100"))
MESSAGES = 1000
MIX: list[tuple[int, Callable[[int], bytes]]] = [
    (418, lambda tag: read(0, 4, tag=tag)),
    (200, lambda tag: write_to_journal(tag, tag)),
    (250, lambda tag: write_to_journal(tag, tag, flags=NO_REPLY)),
    (100, lambda tag: message(7, b"echo", tag=tag)),
    (12, lambda tag: read(MEMORY, 30000, tag=tag)),
    (10, lambda tag: message(DESCRIPTOR, b"fd", tag=tag)),
    (10, lambda tag: message(LATER, tag=tag)),
]
"""How often (of 1000), and what."""


class Supervisor:
    """Holds the socket and the ledger, and starts a server whenever it has killed one."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.ledger = _core.Ledger(MAX)
        self.journal = Journal()
        self.start()

    def start(self) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._serve()
            finally:
                os._exit(1)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL

    def close(self) -> None:
        self.kill()
        self.near.close()
        self.far.close()
        del self.ledger

    def _serve(self) -> None:
        server = Server(self.journal)
        server.stream.use(_core.Ledger(MAX, self.ledger.fd))
        pump = _core.Pump(server.stream, self.near.fileno())
        poll = select.poll()
        flags = pump.flush()
        while not flags & (pump.EOF | pump.BROKEN):
            while server.laters:
                server.answer()
                flags = pump.flush()
            poll.register(
                self.near, bool(flags & pump.READ) * select.POLLIN | bool(flags & pump.WRITE) * select.POLLOUT
            )
            events = poll.poll()[0][1]
            flags = pump.run() if events & select.POLLIN else pump.flush()


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    supervisor.close()


class Conversation:
    """1000 messages at once, and their replies as they come."""

    def __init__(self, chance: random.Random) -> None:
        makers = chance.choices([make for _, make in MIX], [weight for weight, _ in MIX], k=MESSAGES - 1)
        sent = [make(tag) for tag, make in enumerate(makers)]
        sent.append(read(0, 4, tag=MESSAGES))  # its reply says that posted writes before it are done
        self.client = Client([(b"".join(sent), None)])
        self.expected, self.journal = self.client.expected()
        self.commands = len(self.expected)
        self.replies = self._parsed = 0

    def hold(self, supervisor: Supervisor, kill_after: int) -> bool:
        """Until all is answered; the server is killed after so many replies. False: they were the last."""
        unsent, killed = self.client.sends[0][0], False
        poll = select.poll()
        while self.replies < len(self.expected):
            if not killed and self.replies >= kill_after:
                supervisor.kill()
                supervisor.start()
                killed = True
            poll.register(supervisor.far, select.POLLIN | (select.POLLOUT if unsent else 0))
            assert poll.poll(20000), f"{self.replies} replies, and no more"
            unsent = unsent[_send(supervisor.far, unsent) :]
            self.client.take(supervisor.far, 16384)
            self._count()
        return killed

    def failures(self, journal: Journal) -> int:
        """Checks everything; how many commands failed."""
        got = replies(self.client.received)
        assert_served(got, self.expected, most=1)
        assert_journal(journal.entries(), self.journal, doubtful=1)
        return sum(1 for reply in got if reply[2] & ERROR)

    def _count(self) -> None:
        data = self.client.received
        while len(data) >= self._parsed + 16 and len(data) >= self._parsed + (size := _size(data, self._parsed)):
            self._parsed += size
            self.replies += 1


def _size(data: bytes, at: int) -> int:
    return int(struct.unpack_from("<I", data, at + 4)[0])


def _send(sock: socket.socket, data: bytes) -> int:
    try:
        return sock.send(data[:65536]) if data else 0
    except BlockingIOError:
        return 0


def test_kill_in_the_middle_of_1000_messages_fails_at_most_the_one_in_hand(supervisor: Supervisor) -> None:
    """Issue 5, kill -9 of a supervised server: one connection lives through every round."""
    chance = random.Random(5)
    killed = failed = 0
    for _ in range(ROUNDS):
        supervisor.journal.clear()
        conversation = Conversation(chance)
        killed += conversation.hold(supervisor, chance.randrange(conversation.commands))
        failed += conversation.failures(supervisor.journal)
    assert killed > ROUNDS * 3 // 4  # else the last reply was there already
    assert 0 < failed <= killed


def test_kill_while_a_large_reply_is_half_sent_loses_none_of_its_bytes(supervisor: Supervisor) -> None:
    """S3.11: what a device lends to be sent is in the ledger, whoever it was that had it."""
    asked = 8  # more than the socket takes
    supervisor.far.sendall(b"".join(message(MIG_DATA_READ, bytes([tag]), tag=tag) for tag in range(asked)))
    client, whole, seen = Client([]), 16 + 1 + MAX, -1
    for _ in range(3):
        while seen != (seen := queued(supervisor.far)) or not seen % whole:
            time.sleep(0.01)
        supervisor.kill()
        assert queued(supervisor.far) % whole
        supervisor.start()
        client.take(supervisor.far, MAX)
    while len(client.received) < asked * whole:
        assert select.select([supervisor.far], [], [], 20)[0], f"{len(client.received)} bytes, and no more"
        client.take(supervisor.far)
    assert replies(client.received) == [
        (tag, MIG_DATA_READ, REPLY, 0, bytes([tag]) + STATE[tag:] + STATE[:tag]) for tag in range(asked)
    ]
