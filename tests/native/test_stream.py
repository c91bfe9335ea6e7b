"""The receiver: framing, order, descriptors, waiting, and what a broken peer gets."""

import errno
import os
import random
import struct

import pytest

from tests.native.messages import ERROR, NO_REPLY, REPLY, message, read, replies, write, write_multi
from tests.native.streams import BUG, FAILS, WAITS, Peer
from vfuserver import _core
from vfuserver.errors import CommandError, LocalError

EVERYTHING = (
    read(0, 4, tag=1)
    + write(4, b"abcd", tag=2)
    + write(4, b"efgh", tag=3, flags=NO_REPLY)
    + read(4, 4, tag=4)
    + message(99, b"hello", tag=5)
    + write_multi((0, 0x10, b"12345678"), (0, 4, b"ij"), tag=6)
    + read(0, 300, tag=7)
    + read(4096, 1, tag=8)
    + message(9, b"short", tag=9)
    + read(0, 16, region=1, tag=10)
)


def test_pipelined_commands_are_answered_in_order(peer: Peer) -> None:
    answers = peer.feed(EVERYTHING)
    assert [answer[0] for answer in answers] == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert answers[2][4][16:] == b"efgh"


def test_thousand_reads_in_one_batch_keep_order_and_content(peer: Peer) -> None:
    answers = peer.feed(b"".join(read(i % 3 * 4, 4, tag=i) for i in range(1000)))
    assert [answer[0] for answer in answers] == list(range(1000))
    assert all(answer[4][16:] == b"TEST" for answer in answers[::3])


def test_one_byte_at_a_time_gives_the_same_replies(peer: Peer) -> None:
    slowly = b"".join(chunk for byte in EVERYTHING for chunk, _ in peer.stream.feed(bytes([byte])))
    assert replies(slowly) == Peer().feed(EVERYTHING)


def test_random_cuts_give_the_same_replies() -> None:
    expected, dice = Peer().feed(EVERYTHING), random.Random(7)
    for _ in range(50):
        peer, out, left = Peer(), b"", EVERYTHING
        while left:
            cut = dice.randint(1, 90)
            out += b"".join(chunk for chunk, _ in peer.stream.feed(left[:cut]))
            left = left[cut:]
        assert replies(out) == expected


def test_no_reply_is_silent_even_for_an_error(peer: Peer) -> None:
    assert peer.feed(write(5000, b"x", flags=NO_REPLY) + write(4, b"wxyz", flags=NO_REPLY)) == []
    assert peer.table.read(4, 4) == b"wxyz"


@pytest.mark.parametrize(
    "bad",
    [
        read(0, 0),
        read(4095, 2),
        read(2**64 - 2, 4),
        read(0, 4, region=2),
        read(0, 4, region=2**32 - 1),
        read(0, 0xFFFFFFFF),
        message(9, bytes(15)),
        message(9, bytes(17)),
        message(10, struct.pack("<QII", 0, 0, 4) + b"abc"),
        message(10, struct.pack("<QII", 0, 0, 4) + b"abcde"),
        message(15, b""),
        message(15, struct.pack("<Q", 2) + bytes(24)),
        message(15, struct.pack("<Q", 2**61)),
        write_multi((7, 0, b"x")),
        message(15, struct.pack("<QQII8s", 1, 0, 0, 9, b"12345678")),
    ],
)
def test_impossible_accesses_are_einval_and_the_stream_lives(peer: Peer, bad: bytes) -> None:
    assert [(flags, error) for _, _, flags, error, _ in peer.feed(bad)] == [(REPLY | ERROR, errno.EINVAL)]
    assert peer.feed(read(0, 4))[0][4][16:] == b"TEST"


@pytest.mark.parametrize(
    "broken",
    [
        message(9, size=15),
        message(9, size=2**32 - 1),
        message(10, size=(1 << 20) + 33),
        message(9, bytes(16), flags=2),
        message(9, bytes(16), flags=0xF),
    ],
)
def test_a_message_that_cannot_be_breaks_the_stream_at_its_header(peer: Peer, broken: bytes) -> None:
    assert peer.feed(broken[:16]) == []
    assert peer.stream.broken
    assert peer.feed(read(0, 4)) == []


def test_largest_legal_write_is_not_too_large() -> None:
    peer = Peer(max_transfer=4096)
    assert peer.feed(write(0, bytes(4096)))[0][3] == 0
    assert peer.feed(write(0, bytes(4097))) == []
    assert peer.stream.broken


def test_command_before_version_breaks_the_stream() -> None:
    peer = Peer()
    peer.stream.negotiated = False
    assert peer.feed(read(0, 4)) == []
    assert "before VERSION" in (peer.stream.broken or "")


def test_hook_errors_become_errnos_and_the_log(peer: Peer) -> None:
    answers = peer.feed(write(8, struct.pack("<I", FAILS)) + write(8, struct.pack("<I", BUG)))
    assert [answer[3] for answer in answers] == [errno.ENXIO, errno.EIO]
    assert [(region, offset, type(error)) for region, offset, error in peer.hook_errors] == [(0, 8, KeyError)]


def test_handler_may_refuse_or_break(peer: Peer) -> None:
    assert peer.feed(message(50, b"refuse"))[0][3] == errno.EINVAL
    assert peer.feed(message(50, b"break")) == []
    assert peer.stream.broken == "this cannot be"


class TestLater:
    """S1.11: commands wait for a held one in order; replies to our own messages do not."""

    def test_commands_wait_until_the_answer(self, peer: Peer) -> None:
        assert peer.feed(message(50, b"later", tag=1) + read(0, 4, tag=2)) == []
        assert peer.stream.held
        peer.stream.complete(b"now")
        assert [(answer[0], answer[4][-4:]) for answer in peer.take()] == [(1, b"now"), (2, b"TEST")]

    def test_replies_are_taken_in_while_held(self, peer: Peer) -> None:
        peer.feed(message(50, b"later", tag=1) + read(0, 4, tag=2) + message(11, b"data", tag=77, flags=REPLY))
        assert peer.answers == [(11, 77, 0, b"data")]
        peer.feed(message(12, tag=78, flags=REPLY))
        assert peer.answers[1:] == [(12, 78, 0, b"")]
        peer.stream.complete(None)
        assert [answer[0] for answer in peer.take()] == [1, 2]
        assert len(peer.answers) == 2

    def test_a_reply_behind_two_held_commands_is_taken_in_once(self, peer: Peer) -> None:
        peer.feed(message(50, b"later", tag=1) + message(50, b"later", tag=2) + message(11, b"data", flags=REPLY))
        peer.stream.complete(b"one")
        peer.feed(message(12, b"more", flags=REPLY) + read(0, 4, tag=3))
        peer.stream.complete(b"two")
        assert (peer.stream.broken, [answer[3] for answer in peer.answers]) == (None, [b"data", b"more"])
        assert [answer[0] for answer in peer.take()] == [2, 3]

    def test_register_may_answer_later_in_the_middle_of_an_access(self, peer: Peer) -> None:
        peer.table.set(2, 0, WAITS)
        assert peer.feed(read(0, 16) + read(0, 4, tag=2)) == []
        peer.stream.complete(0x64636261)
        assert [answer[4][16:] for answer in peer.take()] == [b"TEST\0\0\0\0abcd\0\0\0\0", b"TEST"]

    def test_an_error_answers_too(self, peer: Peer) -> None:
        peer.table.set(2, 0, WAITS)
        peer.feed(read(8, 4))
        peer.stream.complete(CommandError(errno.ETIMEDOUT))
        assert peer.take()[0][3] == errno.ETIMEDOUT

    def test_completing_nothing_is_our_bug(self, peer: Peer) -> None:
        with pytest.raises(LocalError, match="no command waits"):
            peer.stream.complete(None)

    def test_held_stream_stops_wanting_bytes(self, peer: Peer) -> None:
        peer.feed(message(50, b"later"))
        assert peer.stream.wants_read
        peer.feed(read(0, 4) * 3000)
        assert not peer.stream.wants_read

    def test_a_long_reply_is_read_to_its_end_while_held(self, peer: Peer) -> None:
        """S0.14: a command may wait for it, so that the half of it which has come must not stop the reading."""
        reply = message(11, bytes(range(256)) * 1024, tag=7, flags=REPLY)
        peer.feed(message(50, b"later") + read(0, 4, tag=2) + reply[:200_000])
        assert peer.stream.wants_read
        peer.feed(reply[200_000:])
        assert [len(payload) for *_, payload in peer.answers] == [256 * 1024]
        assert peer.stream.wants_read

    def test_replies_without_end_while_held_do_not_stop_the_reading(self, peer: Peer) -> None:
        """What waits between them keeps its order and its descriptors."""
        sent = [os.eventfd(number) for number in range(3)]
        peer.feed(message(50, b"later"))
        for number in range(30):
            kept = sent[number // 10 : number // 10 + 1] if number % 10 == 5 else []
            peer.feed(message(60 + number, b"c" * number), kept)
            peer.feed(message(11, bytes(50_000), tag=number, flags=REPLY)[:30_000])
            assert peer.stream.wants_read
            peer.feed(message(11, bytes(50_000), tag=number, flags=REPLY)[30_000:] + message(12, tag=99, flags=REPLY))
        assert [tag for _, tag, _, payload in peer.answers if payload] == list(range(30))
        assert len(peer.commands) == 1
        peer.stream.complete(b"now")
        assert [(number, len(payload), len(fds)) for number, _, _, payload, fds in peer.commands[1:]] == [
            (60 + number, number, number % 10 == 5) for number in range(30)
        ]


class TestSendQueue:
    def test_full_queue_stops_serving_until_it_is_taken(self, peer: Peer) -> None:
        peer.stream.send_limit = 100_000
        sizes = []
        chunks = peer.stream.feed(b"".join(read(0, 4096, tag=i) for i in range(200)))
        sizes.append(sum(len(chunk) for chunk, _ in chunks))
        assert [answer[0] for answer in replies(b"".join(chunk for chunk, _ in chunks))] == list(range(200))

    def test_message_with_descriptors_travels_alone(self) -> None:
        peer, fd = Peer(), os.eventfd(0)
        peer.stream.send(message(50, b"one"))
        peer.stream.send(message(50, b"two"), [fd])
        peer.stream.send(message(50, b"three"))
        chunks = peer.stream.take()
        os.close(fd)
        assert [len(fds) for _, fds in chunks] == [0, 1, 0]
        for _, fds in chunks:
            for number in fds:
                os.close(number)


class TestDescriptors:
    """Descriptors belong to the message that holds the last byte received with them (One REGION_WRITE, 2)."""

    def test_batch_owner_is_the_message_of_the_last_byte(self, peer: Peer) -> None:
        peer.feed(message(50, b"A") + message(50, b"B"), [os.eventfd(0)])
        assert [len(fds) for *_, fds in peer.commands] == [0, 1]

    def test_descriptor_of_a_partial_message_waits_for_its_rest(self, peer: Peer) -> None:
        whole = message(50, b"A") + message(50, b"BBBB")
        peer.feed(whole[:30], [os.eventfd(0)])
        peer.feed(whole[30:])
        assert [len(fds) for *_, fds in peer.commands] == [0, 1]

    def test_descriptors_of_a_region_access_are_refused_and_closed(self, peer: Peer) -> None:
        assert peer.feed(read(0, 4), [os.eventfd(0)])[0][3] == errno.EINVAL

    def test_descriptors_of_waiting_messages_are_closed_with_the_stream(self, peer: Peer) -> None:
        peer.feed(message(50, b"later"))
        peer.feed(message(50, b"A"), [os.eventfd(0), os.eventfd(0)])
        peer.stream.close()

    def test_waiting_command_keeps_its_descriptors_when_a_reply_overtakes_it(self, peer: Peer) -> None:
        peer.feed(message(50, b"later"))
        peer.feed(message(50, b"A"), [os.eventfd(0)])
        peer.feed(message(11, b"x", flags=REPLY), [os.eventfd(0)])
        peer.stream.complete(None)
        assert [(payload, len(fds)) for _, _, _, payload, fds in peer.commands] == [(b"later", 0), (b"A", 1)]

    def test_flood_of_descriptors_with_one_message_breaks_the_stream(self, peer: Peer) -> None:
        head = message(10, size=1000)
        peer.feed(head[:1], [os.eventfd(0) for _ in range(253)])
        for byte in head[1:4]:
            peer.stream.feed(bytes([byte]), [os.eventfd(0) for _ in range(253)])
        assert "descriptors" in (peer.stream.broken or "")
        peer.stream.close()


def test_random_messages_never_crash_and_are_answered_or_break() -> None:
    dice = random.Random(20261121)
    for _ in range(2000):
        peer = Peer(max_transfer=4096)
        payload = dice.randbytes(dice.randrange(64))
        number = dice.choice([1, 9, 10, 15, dice.randrange(65536)])
        peer.feed(message(number, payload, flags=dice.choice([0, 1, NO_REPLY, dice.randrange(2**32)])))
        peer.feed(dice.randbytes(dice.randrange(200)))
        peer.stream.close()


def test_feeding_from_inside_a_callback_is_our_bug() -> None:
    caught: list[Exception] = []

    def command(*_: object) -> bytes:
        try:
            stream.feed(b"")
        except LocalError as error:
            caught.append(error)
        return b""

    stream = _core.Stream(command, lambda *_: None)
    stream.feed(message(1))
    assert len(caught) == 1


def test_closing_from_inside_a_callback_ends_the_batch() -> None:
    seen = []

    def command(number: int, *_: object) -> bytes:
        seen.append(number)
        stream.close()
        return b""

    stream = _core.Stream(command, lambda *_: None)
    assert stream.feed(message(1) + message(2)) == []
    assert seen == [1]
