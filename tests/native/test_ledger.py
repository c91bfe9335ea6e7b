"""A stream with a ledger: the same as one without, but what it holds can be taken over. (Kills: test_ledger_steps.)"""

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.native.ledgers import (
    DESCRIPTOR,
    HEAD,
    LATER,
    MAX,
    MEMORY,
    MIG_DATA_READ,
    OURS,
    STATE,
    Server,
    copy_of,
    write_to_journal,
)
from tests.native.messages import NO_REPLY, REPLY, message, read, replies
from vfuserver import _core
from vfuserver.errors import LocalError

EIO = 5
MIG_DATA_WRITE = 18


def used(server: Server, ledger: _core.Ledger | None = None) -> Server:
    server.stream.use(ledger or _core.Ledger(MAX))
    return server


def answered(server: Server, data: bytes = b"") -> list[tuple[int, int]]:
    """(message id, errno) of what comes when `data` is fed."""
    return [(tag, error) for tag, _, _, error, _ in replies(server.finish([(data, None)]))]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stream.close()


@pytest.fixture
def successor() -> Iterator[Server]:
    successor = Server()
    yield successor
    successor.stream.close()


def test_fresh_ledger_has_nothing_to_report(server: Server) -> None:
    assert tuple(server.stream.use(_core.Ledger(MAX))) == (True, None, 0, 0, 0, None)


def test_successor_reports_and_fails_what_was_held(server: Server, successor: Server) -> None:
    ledger = _core.Ledger(MAX)
    used(server, ledger).stream.feed(message(LATER, tag=2) + read(0, 4, tag=3))
    server.stream.send(message(52, b"", tag=600))
    server.stream.feed(b"\x04")  # the next message begins
    report = successor.stream.use(_core.Ledger(MAX, ledger.fd))
    assert (report.failed, report.unread, report.unsent, report.last_id) == ((LATER, 2, True), 33, 16, 600)
    assert answered(successor, b"\0" + read(0, 4)[2:]) == [(2, EIO), (3, 0), (4, 0)]


def test_posted_command_in_hand_is_reported_and_not_answered(server: Server, successor: Server) -> None:
    ledger = _core.Ledger(MAX)
    used(server, ledger).stream.feed(message(LATER, tag=2, flags=NO_REPLY))
    assert successor.stream.use(copy_of(ledger.fd)).failed == (LATER, 2, False)
    assert answered(successor) == []


def test_command_that_is_answered_is_in_hand_no_more(server: Server, successor: Server) -> None:
    """Not even while whoever answered goes on, and takes what is to be sent."""
    copies: list[_core.Ledger] = []

    def answer_and_take(later: object) -> None:
        server.stream.complete(b"done")
        assert [tag for tag, *_ in replies(server.stream.take()[0][0])] == [2]
        copies.append(copy_of(ledger.fd))

    ledger = _core.Ledger(MAX)
    server.on_later = answer_and_take
    used(server, ledger).stream.feed(message(LATER, tag=2))
    server.on_later = server.laters.append
    assert successor.stream.use(copies.pop()).failed is None
    assert answered(successor) == []


def test_region_read_in_hand_with_masked_errors_is_answered_with_all_ones(server: Server, successor: Server) -> None:
    """As the same read would be if it failed (quirk region-errors)."""
    copies: list[_core.Ledger] = []

    def access(_: int, count: int, data: bytes | None) -> bytes:
        copies.append(copy_of(ledger.fd))
        return bytes(count)

    server.stream.regions = [(256, access)]
    ledger = _core.Ledger(MAX)
    used(server, ledger).stream.feed(read(0, 4, tag=9))
    successor.stream.masked_errors = True
    assert successor.stream.use(copies.pop()).failed == (9, 9, True)
    (answer,) = replies(successor.finish())
    assert answer[3:] == (0, struct.pack("<QII", 0, 0, 4) + b"\xff" * 4)


def test_stream_with_bytes_moves_into_a_fresh_ledger(server: Server, successor: Server) -> None:
    """What a former process handed over, say; its unsent messages are the ledger's from now on, too."""
    ledger = _core.Ledger(MAX)
    server.stream.send(message(52, b"ours"))
    server.stream.feed(write_to_journal(1, 1)[:20])
    server.stream.send(message(52, b"ours", tag=2))
    assert server.stream.use(ledger).unread == 20
    assert successor.stream.use(copy_of(ledger.fd)).unread == 20
    assert answered(successor, write_to_journal(1, 1)[20:]) == [(2, 0), (1, 0)]


def test_lent_replies_move_into_a_fresh_ledger_in_their_order(server: Server, successor: Server) -> None:
    """So does the place of descriptors behind them."""
    ledger, (near, far) = _core.Ledger(MAX), socket.socketpair()
    with near, far:
        server.stream.send_limit = 10 * MAX
        near.setblocking(False)
        asked = [message(MIG_DATA_READ, bytes([tag]), tag=tag) for tag in range(3)]
        far.sendall(b"".join([*asked, message(7, b"echo", tag=3), message(DESCRIPTOR, b"fd", tag=4)]))
        assert _core.Pump(server.stream, near.fileno()).run() & _core.Pump.WRITE
        used(server, ledger)
        report = successor.stream.use(copy_of(ledger.fd, 8 << 20))
        assert (report.failed, report.unsent) == ((DESCRIPTOR, 4, True), server.stream.queued - len(b"fd"))
        got = far.recv(8 << 20)
        for one in (server, successor):
            rest = replies(got + one.finish())
            assert [(tag, payload) for tag, _, _, _, payload in rest][:4] == [
                *((tag, bytes([tag]) + STATE[tag:] + STATE[:tag]) for tag in range(3)),
                (3, b"echo\0"),
            ]
            assert [(tag, error) for tag, _, _, error, _ in rest][4:] == [(4, EIO if one is successor else 0)]


def test_what_is_lent_is_copied_into_the_ledger_at_once(server: Server, successor: Server) -> None:
    ledger, data = _core.Ledger(MAX), bytearray(STATE)
    used(server, ledger).stream.feed(message(LATER, tag=2))
    server.stream.complete([b"head", data])
    data.clear()
    assert server.stream.queued == 16 + 4 + MAX
    server.stream.send([message(OURS, tag=600, size=16 + MAX), STATE])
    assert server.stream.take()[0][0][16:] == b"head" + STATE + message(OURS, tag=600, size=16 + MAX) + STATE
    assert successor.stream.use(_core.Ledger(MAX, ledger.fd)).last_id == 600


def test_state_that_lies_in_a_ledger_is_given_as_bytes_of_its_own() -> None:
    """Whoever keeps it has what came, however often the ring goes round."""
    taken: list[bytes] = []
    stream = _core.Stream(lambda *command: taken.append(command[3]), lambda *_: None, max_transfer=MAX)
    stream.negotiated = True
    stream.use(_core.Ledger(MAX))
    sent = [bytes([number]) * MAX for number in range(30)]
    for data in sent:
        stream.feed(message(MIG_DATA_WRITE, data))
    stream.close()
    assert taken == sent


def test_adopted_bytes_are_the_ledgers_at_once(server: Server, successor: Server) -> None:
    """A replaced server that is killed before it serves anything: its descriptors are lost, and no byte."""
    ledger = _core.Ledger(MAX)
    waiting, unsent = message(7, b"ab", tag=3) + read(0, 4, tag=4), message(52, b"ours", tag=8)
    reply = message(DESCRIPTOR, b"x", tag=2, flags=REPLY)
    used(server, ledger).stream.adopt(waiting, [(17, 0)], unsent + reply, [(len(unsent), 0)])
    report = successor.stream.use(copy_of(ledger.fd))
    assert (report.failed, report.awaiting, report.unread) == ((DESCRIPTOR, 2, True), 1, len(waiting))
    assert answered(successor) == [(8, 0), (2, EIO), (3, EIO), (4, 0)]


def test_two_unsent_replies_with_descriptors_are_not_adopted(server: Server) -> None:
    reply = message(DESCRIPTOR, b"x", tag=2, flags=REPLY)
    with pytest.raises(LocalError, match="send the first"):
        used(server).stream.adopt(b"", [], reply + reply, [(0, 0), (len(reply), 0)])


def test_descriptors_that_a_message_awaits_are_lost_but_not_its_place(server: Server, successor: Server) -> None:
    ledger = _core.Ledger(MAX)
    used(server, ledger).stream.feed(message(7, b"abcdef", tag=1)[:18], [os.dup(0)])
    assert successor.stream.use(copy_of(ledger.fd)).awaiting == 1
    assert answered(successor, b"cdef" + message(7, tag=2)) == [(1, EIO), (2, 0)]


def test_reply_with_a_descriptor_is_sent_before_more_is_served(server: Server) -> None:
    data = b"".join(message(DESCRIPTOR, b"x", tag=tag) for tag in range(3)) + read(0, 4, tag=3)
    assert answered(used(server), data) == [(tag, 0) for tag in range(4)]


def test_ring_that_is_never_empty_goes_round(server: Server, successor: Server) -> None:
    """More bytes than it has, both ways, with a piece of the next message waiting at any time."""
    ledger = _core.Ledger(MAX)
    used(server, ledger)
    ring = (os.fstat(ledger.fd).st_size - HEAD) // 2
    large = read(MEMORY, 60000, tag=1) + message(7, bytes(200000), tag=2)
    last = b""
    for _ in range(ring // 200000 + 3):
        whole = last + large
        sent, last = whole[:-10000], whole[-10000:]
        got = replies(server.finish([(sent, None)]))
        assert [(tag, len(payload)) for tag, _, _, _, payload in got] in ([(1, 60016)], [(2, 200001), (1, 60016)])
    assert successor.stream.use(copy_of(ledger.fd, ring)).unread == 190016
    assert [(tag, len(payload)) for tag, *_, payload in replies(successor.finish([(last, None)]))] == [(2, 200001)]


def test_memory_that_large_messages_used_is_given_back(server: Server) -> None:
    ledger = _core.Ledger(MAX)
    used(server, ledger).finish([(message(7, bytes(1 << 20)), None)])
    most = os.fstat(ledger.fd).st_blocks * 512
    for _ in range(300):
        server.finish([(read(0, 4), None)])
    assert os.fstat(ledger.fd).st_blocks * 512 < 1 << 18 < 1 << 21 < most


def test_peer_that_vanished_is_served_to_its_last_byte(server: Server) -> None:
    """recvmmsg tells of the reset connection before it gives the data that came first."""
    near, far = socket.socketpair()
    near.setblocking(False)
    pump = _core.Pump(used(server).stream, near.fileno())
    far.send(read(0, 4))
    pump.run()
    far.send(write_to_journal(7, 1, flags=NO_REPLY))
    far.close()  # with the reply unread
    flags = [pump.run(), pump.run()]
    near.close()
    assert server.journal.entries() == [7]
    assert flags[-1] & pump.EOF


def test_what_is_no_ledger_of_this_size_is_refused() -> None:
    with pytest.raises(LocalError, match="is no ledger of this version for max_data_xfer_size"):
        _core.Ledger(MAX, 0)
    small = _core.Ledger(MAX)
    with pytest.raises(LocalError, match="is no ledger of this version for max_data_xfer_size 67108864"):
        _core.Ledger(64 << 20, small.fd)


def test_ledger_that_makes_no_sense_is_refused_and_the_stream_unharmed(server: Server) -> None:
    ledger = _core.Ledger(MAX)
    used(Server(), ledger).stream.close()
    bad = copy_of(ledger.fd)
    os.pwrite(bad.fd, b"\xff" * 49152, 4096)
    with pytest.raises(LocalError, match="makes no sense"):
        server.stream.use(bad)
    assert answered(server, read(0, 4, tag=3)) == [(3, 0)]


def test_ledger_is_one_streams_and_a_stream_has_one(server: Server, successor: Server) -> None:
    ledger = _core.Ledger(MAX)
    used(server, ledger)
    with pytest.raises(LocalError, match="another stream's"):
        successor.stream.use(ledger)
    with pytest.raises(LocalError, match="has a ledger already"):
        server.stream.use(_core.Ledger(MAX))


def test_stream_that_was_used_cannot_take_over(server: Server, successor: Server) -> None:
    ledger = _core.Ledger(MAX)
    used(server, ledger)
    answered(successor, read(0, 4))
    with pytest.raises(LocalError, match="nothing has passed through"):
        successor.stream.use(copy_of(ledger.fd))


def test_message_of_our_own_with_a_descriptor_is_refused(server: Server) -> None:
    with pytest.raises(LocalError, match="would not survive"):
        used(server).stream.send(message(52), [0])
