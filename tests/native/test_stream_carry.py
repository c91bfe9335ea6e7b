"""A stream that another process goes on with: what is not served and not sent travels, and nothing does twice."""

import os
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.native.messages import REPLY, message, read, replies
from tests.native.streams import Peer
from vfuserver import _core
from vfuserver.errors import LocalError


class Recorder:
    """A stream whose commands and replies are kept, with the names of their descriptors; a command echoes them."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bytes, list[str]]] = []
        self.stream = _core.Stream(self._command, self._reply, on_later=lambda _: None)
        self.stream.negotiated = True

    def _keep(self, number: int, payload: bytes, fds: list[int]) -> None:
        self.seen.append((number, payload, [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]))
        for fd in fds:
            os.close(fd)

    def _command(self, number: int, tag: int, flags: int, payload: bytes, fds: list[int]) -> Any:
        self._keep(number, payload, fds)
        return Recorder if payload == b"later" else payload

    def _reply(self, number: int, tag: int, error: int, payload: bytes, fds: list[int]) -> None:
        self._keep(number, payload, fds)

    def complete(self) -> None:
        """Answers the held command, if there is one."""
        if self.stream.held:
            self.stream.complete(b"now")

    def next(self, carried: bool) -> "Recorder":
        return self.successor() if carried and not self.stream.held else self

    def successor(self) -> "Recorder":
        """Another one that goes on where this one stands; this one is over."""
        other = Recorder()
        other.stream.adopt(*self.stream.carry())
        other.stream.send_limit = self.stream.send_limit
        self.stream.close()
        other.seen = self.seen
        return other


@pytest.fixture
def files() -> Iterator[list[int]]:
    """Descriptors whose files can be told apart."""
    fds = [os.memfd_create(f"file-{number}") for number in range(4)]
    yield fds
    for fd in fds:
        os.close(fd)


def sent(chunks: "list[_core.Output]") -> tuple[bytes, list[tuple[int, str]]]:
    """All bytes, and the files that went with them by the offset of their byte; closes these."""
    data, files = b"", []
    for chunk, fds in chunks:
        for fd in fds:
            files.append((len(data), os.readlink(f"/proc/self/fd/{fd}")))
            os.close(fd)
        data += chunk
    return data, files


def named(number: int) -> str:
    return f"/memfd:file-{number} (deleted)"


def test_carry_leaves_out_replies_that_were_served_before_their_turn(files: list[int]) -> None:
    recorder = Recorder()
    second, rest = message(60, b"second" * 9), message(61, b"third")[:20]
    recorder.stream.feed(message(50, b"later") + message(51, b"first"))
    recorder.stream.feed(message(11, b"reply", flags=REPLY), [os.dup(files[0])])
    recorder.stream.feed(second, [os.dup(files[1])])
    recorder.stream.feed(message(12, b"reply", flags=REPLY) + rest, [os.dup(files[2])])
    recorder.stream.send_limit = 0
    recorder.stream.complete(b"now")
    waiting = message(51, b"first") + second + rest
    unread, unread_fds, unsent, unsent_fds = recorder.stream.carry()
    assert (unread, [at for at, _ in unread_fds]) == (waiting, [len(waiting) - len(rest) - 1, len(waiting) - 1])
    assert ([answer[4] for answer in replies(unsent)], unsent_fds) == ([b"now"], [])
    other = recorder.successor()
    other.stream.serve()
    other.stream.feed(message(61, b"third")[20:])
    assert other.seen == [
        (50, b"later", []),
        (11, b"reply", [named(0)]),
        (12, b"reply", []),
        (51, b"first", []),
        (60, b"second" * 9, [named(1)]),
        (61, b"third", [named(2)]),
    ]


def test_carry_changes_nothing_of_the_stream(files: list[int]) -> None:
    recorder = Recorder()
    recorder.stream.send(message(70, b"one"), [files[0]])
    assert sent(recorder.stream.feed(message(50, b"whole")[:18], [os.dup(files[1])]))[1] == [(0, named(0))]
    recorder.stream.send(message(70, b"three"), [files[3]])
    first = recorder.stream.carry()
    assert recorder.stream.carry() == first
    assert sent(recorder.stream.feed(message(50, b"whole")[18:]))[1] == [(0, named(3))]
    assert recorder.seen == [(50, b"whole", [named(1)])]


def test_unsent_messages_keep_their_descriptors_and_their_order(files: list[int]) -> None:
    recorder = Recorder()
    for number in range(4):
        recorder.stream.send(message(70, bytes(number)), files[:number])
    data, _, unsent, fds = recorder.stream.carry()
    assert (data, [at for at, _ in fds]) == (b"", [16, 33, 33, 51, 51, 51])
    assert sent(recorder.successor().stream.take()) == (
        unsent,
        [(16, named(0)), *((33, named(n)) for n in range(2)), *((51, named(n)) for n in range(3))],
    )


def test_a_message_of_which_half_is_sent_goes_on_in_the_middle(files: list[int]) -> None:
    """Its descriptors went with its first byte: they do not go twice."""
    first = message(70, random.Random(3).randbytes(8 << 20))  # more than the socket takes
    whole = first + message(71, b"after")
    recorder, (ours, theirs) = Recorder(), socket.socketpair()
    with ours, theirs:
        recorder.stream.send(first, [files[0]])
        recorder.stream.send(whole[len(first) :], [files[1]])
        assert _core.Pump(recorder.stream, ours.fileno()).flush() & _core.Pump.WRITE
        other = recorder.successor()
        got, passed = bytearray(), 0
        while len(got) < len(whole):
            data, fds, *_ = socket.recv_fds(theirs, 1 << 16, 8)
            got, passed = got + data, passed + len(fds)
            for fd in fds:
                os.close(fd)
            _core.Pump(other.stream, ours.fileno()).flush()
    assert (bytes(got), passed) == (whole, 2)


def test_a_lent_reply_of_which_half_is_sent_goes_on_in_the_middle(files: list[int]) -> None:
    """Behind it a small one, another lent one, and one with a descriptor. Carrying gives back what was lent."""
    lent = bytearray(random.Random(4).randbytes(8 << 20))  # more than the socket takes
    head, second = message(70, b"head", size=16 + 4 + len(lent)), random.Random(5).randbytes(1 << 20)
    rest = [message(71, b"small"), message(72, size=16 + len(second)) + second, message(73, b"after")]
    whole = head + lent + b"".join(rest)
    recorder, (ours, theirs) = Recorder(), socket.socketpair()
    with ours, theirs:
        recorder.stream.send([head, lent])
        recorder.stream.send(rest[0])
        recorder.stream.send([rest[1][:16], second])
        recorder.stream.send(rest[2], [files[0]])
        assert _core.Pump(recorder.stream, ours.fileno()).flush() & _core.Pump.WRITE
        left = recorder.stream.queued
        unsent, fds = recorder.stream.carry()[2:]
        assert (unsent, [at for at, _ in fds]) == (whole[-left:], [left - len(rest[2])])
        lent.clear()
        assert recorder.stream.carry()[2] == unsent
        assert recorder.stream.queued == left
        other = recorder.successor()
        got, passed = bytearray(), 0
        while len(got) < len(whole):
            data, received, *_ = socket.recv_fds(theirs, 1 << 16, 8)
            got, passed = got + data, passed + len(received)
            for fd in received:
                os.close(fd)
            _core.Pump(other.stream, ours.fileno()).flush()
    assert (bytes(got), passed) == (whole, 1)


def test_adopting_serves_nothing_before_it_is_told(peer: Peer) -> None:
    peer.stream.adopt(read(0, 4) + message(11, b"x", flags=REPLY), [], message(70, b"sent before"), [])
    assert (peer.stream.received, peer.answers) == (0, [])
    peer.stream.serve()
    assert (peer.stream.received, len(peer.answers)) == (2, 1)
    assert [answer[4][-4:] for answer in peer.take()] == [b"fore", b"TEST"]


def test_serving_stops_at_a_full_queue_until_it_is_sent(peer: Peer) -> None:
    peer.stream.send_limit = 100
    peer.stream.adopt(read(0, 4) * 50, [], bytes(101), [])
    peer.stream.serve()
    assert (peer.stream.received, peer.stream.wants_read) == (0, False)
    assert len(replies(b"".join(chunk for chunk, _ in peer.stream.take())[101:])) == 50


def test_a_stream_goes_on_as_if_nothing_had_been(files: list[int]) -> None:
    """Carried at any time at which nothing is held, it sees and says what one stream would."""
    dice = random.Random(20261203)
    for _ in range(150):
        script = [(dice.choice([50, 11]), dice.choice([b"later", b"", dice.randbytes(40)])) for _ in range(12)]
        pieces = [(number, payload, [dice.choice(files)] * dice.randrange(3)) for number, payload in script]
        alone = play(pieces, dice.random(), carried=False)
        assert play(pieces, dice.random(), carried=True) == alone


def play(pieces: list[tuple[int, bytes, list[int]]], seed: float, *, carried: bool) -> Any:
    """Commands and replies, each in two parts with its descriptors at the second; perhaps from process to process."""
    dice, recorder, out = random.Random(seed), Recorder(), b""
    recorder.stream.send_limit = 0  # what waits at the end of a held command is often still there
    for tag, (number, payload, fds) in enumerate(pieces):
        data = message(number, payload, tag=tag, flags=REPLY if number == 11 else 0)
        cut = dice.randrange(1, len(data))
        for part, beside in ((data[:cut], []), (data[cut:], fds)):
            recorder = recorder.next(carried)
            out += sent(recorder.stream.feed(part, [os.dup(fd) for fd in beside]))[0]
        if dice.random() < 0.4:
            recorder.complete()
    for _ in pieces:  # each may hold the stream once more
        recorder = recorder.next(carried)
        recorder.complete()
        out += sent(recorder.stream.take())[0]
    recorder.stream.close()
    return [seen for seen in recorder.seen if seen[0] == 50], [seen for seen in recorder.seen if seen[0] == 11], out


class TestRefused:
    def test_a_held_command_cannot_be_carried(self, peer: Peer) -> None:
        peer.feed(message(50, b"later"))
        with pytest.raises(LocalError, match="a command is held"):
            peer.stream.carry()

    def test_a_broken_or_closed_stream_has_nothing_to_carry(self, peer: Peer) -> None:
        peer.feed(message(9, size=15))
        with pytest.raises(LocalError, match="broken"):
            peer.stream.carry()
        peer.stream.close()
        for call in (peer.stream.carry, peer.stream.serve, lambda: peer.stream.adopt(b"", [], b"", [])):
            with pytest.raises(LocalError, match="closed"):
                call()

    def test_inside_a_callback_nothing_is_carried_nor_served(self) -> None:
        caught: list[str] = []

        def command(*_: object) -> bytes:
            for call in (stream.carry, stream.serve, lambda: stream.adopt(b"", [], b"", [])):
                try:
                    call()
                except LocalError as error:
                    caught.append(str(error))
            return b""

        stream = _core.Stream(command, lambda *_: None)
        stream.feed(message(1))
        assert len(caught) == 3
        assert all("served" in text for text in caught)

    def test_a_stream_in_use_adopts_nothing(self, peer: Peer) -> None:
        peer.feed(read(0, 4))
        with pytest.raises(LocalError, match="has passed"):
            peer.stream.adopt(b"", [], b"", [])
        other = Peer()
        other.stream.send(message(70))
        with pytest.raises(LocalError, match="has passed"):
            other.stream.adopt(read(0, 4), [], b"", [])

    @pytest.mark.parametrize(
        ("rx_at", "tx_at"),
        [
            ([20], []),  # beyond the bytes
            ([3, 2], []),
            ([2**64 - 1], []),
            ([], [20]),  # not a whole message behind it
            ([], [4]),
            ([], [19]),
            ([], [0, 8]),  # inside the message of the descriptor before
            ([], [0] * 254),
        ],
    )
    def test_descriptors_without_their_bytes_are_refused(
        self, files: list[int], rx_at: list[int], tx_at: list[int]
    ) -> None:
        stream = Recorder().stream
        data = message(50, b"four")
        with pytest.raises(ValueError, match="descriptors must be in order"):
            stream.adopt(data, [(at, files[0]) for at in rx_at], data, [(at, files[1]) for at in tx_at])
        stream.adopt(data, [(19, files[0])], data, [(0, files[1])] * 253)
        assert stream.queued == 20
        stream.close()

    def test_a_descriptor_that_is_none_is_an_oserror_and_nothing_is_kept(self, files: list[int]) -> None:
        stream = Recorder().stream
        with pytest.raises(OSError, match="Bad file descriptor"):
            stream.adopt(b"12345678", [(0, files[0]), (1, -1)], b"", [])
        assert stream.carry() == (b"", [], b"", [])
        with pytest.raises(TypeError):
            stream.adopt(b"12345678", [(0, files[0])], b"", [files[1]])  # type: ignore[list-item]
