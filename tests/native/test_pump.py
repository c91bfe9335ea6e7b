"""The pump over a real socket pair: batches, back-pressure, descriptors as Linux cuts them."""

import array
import os
import socket
from collections.abc import Iterator

import pytest

from tests.native.messages import message, read, replies, write
from tests.native.streams import Peer
from vfuserver import _core


class Wire:
    """A pump on one end of a socket pair, the test on the other."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.pump = _core.Pump(self.peer.stream, self.near.fileno())

    def send(self, data: bytes, fds: list[int] | None = None) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.far.sendmsg([data], rights)
        for fd in fds or []:
            os.close(fd)

    def close(self) -> None:
        self.peer.stream.close()
        self.near.close()
        self.far.close()


@pytest.fixture
def wire(peer: Peer) -> Iterator[Wire]:
    wire = Wire(peer)
    yield wire
    wire.close()


def test_batch_is_answered_in_one_turn(wire: Wire) -> None:
    wire.send(b"".join(read(0, 4, tag=i) for i in range(100)))
    assert wire.pump.run() == _core.Pump.READ
    assert [answer[0] for answer in replies(wire.far.recv(65536))] == list(range(100))


def test_descriptors_follow_their_messages_through_linux_batching(wire: Wire) -> None:
    """Sent A, B, C+fd, D+fd, E: Linux hands them over as [ABC, fd], [D, fd], [E] (field-notes G)."""
    wire.send(message(50, b"A"))
    wire.send(message(50, b"B"))
    wire.send(message(50, b"C"), [os.eventfd(0)])
    wire.send(message(50, b"D"), [os.eventfd(0), os.eventfd(0)])
    wire.send(message(50, b"E"))
    for _ in range(3):
        wire.pump.run()
    assert [(payload, len(fds)) for *_, payload, fds in wire.peer.commands] == [
        (b"A", 0),
        (b"B", 0),
        (b"C", 1),
        (b"D", 2),
        (b"E", 0),
    ]


def test_end_of_stream_is_told_after_the_last_message_is_served(wire: Wire) -> None:
    wire.send(write(4, b"last", flags=0x10))
    wire.far.shutdown(socket.SHUT_WR)
    assert wire.pump.run() == _core.Pump.READ
    assert wire.pump.run() == _core.Pump.EOF
    assert wire.peer.table.read(4, 4) == b"last"


def test_reader_that_does_not_read_stops_the_server_from_reading(wire: Wire) -> None:
    """The send queue is bounded: while it is full the connection is not read."""
    wire.far.setblocking(False)
    flags = _core.Pump.READ
    while flags & _core.Pump.READ:
        wire.far.send(b"".join(read(0, 4096, tag=i) for i in range(8)))
        flags = wire.pump.run()
    assert flags == _core.Pump.WRITE
    assert wire.peer.stream.queued < wire.peer.stream.send_limit + 2 * 4128


def test_drained_reader_gets_every_reply_in_order(wire: Wire) -> None:
    wire.peer.stream.send_limit = 10_000
    wire.send(b"".join(read(0, 4096, tag=i) for i in range(300)))
    got = b""
    while len(got) < 300 * (32 + 4096):
        wire.pump.run()
        wire.pump.flush()
        got += wire.far.recv(1 << 20)
    assert [answer[0] for answer in replies(got)] == list(range(300))


def test_large_message_in_pieces_is_one_access(wire: Wire) -> None:
    table = _core.Table(_core.Layout(1 << 20, [(0, 1, 1 << 20, bytes(1 << 20), 0xFF, 0, 0xFF, 0, 0, _core.MEMORY)]))
    wire.peer.stream.regions = [(1 << 20, table)]
    data = os.urandom(1 << 20)
    whole = write(0, data)
    for at in range(0, len(whole), 50_000):
        wire.send(whole[at : at + 50_000])
        wire.pump.run()
    assert len(wire.far.recv(100)) == 32
    assert table.read(0, 1 << 20) == data


def test_spinning_serves_without_a_wake_up(wire: Wire) -> None:
    wire.send(read(0, 4))
    assert wire.pump.run(2000) == _core.Pump.READ
    assert replies(wire.far.recv(100))[0][4][16:] == b"TEST"


def test_peer_that_vanished_is_the_end_not_an_error(wire: Wire) -> None:
    wire.send(read(0, 4))
    wire.far.close()
    flags = wire.pump.run()
    assert flags == _core.Pump.EOF or wire.pump.run() == _core.Pump.EOF


def with_descriptors(sock: socket.socket, count: int) -> None:
    """So many commands, each with a descriptor, and so each by itself in the socket."""
    for tag in range(count):
        socket.send_fds(sock, [message(4, b"x", tag=tag)], [sock.fileno()])


def test_messages_with_descriptors_are_answered_together(wire: Wire) -> None:
    """A recvmsg ends behind a descriptor; what lies there already is taken in before the answers leave."""
    with_descriptors(wire.far, 5)
    assert wire.pump.run() == _core.Pump.READ
    assert [tag for tag, *_ in replies(wire.far.recv(4096))] == list(range(5))
    assert [len(fds) for *_, fds in wire.peer.commands] == [1] * 5


def test_an_end_behind_descriptors_is_met_after_the_answers(wire: Wire) -> None:
    with_descriptors(wire.far, 2)
    wire.far.shutdown(socket.SHUT_WR)
    flags = [wire.pump.run(), wire.pump.run()]
    assert [bool(flag & _core.Pump.EOF) for flag in flags] == [False, True]
    assert len(replies(wire.far.recv(4096))) == 2
