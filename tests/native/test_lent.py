"""What is large is not copied: payloads are borrowed until they were sent, state is looked at where it was received."""

import os
import socket
import sys
from collections.abc import Iterator

import pytest

from tests.native.messages import NO_REPLY, REPLY, message, replies
from tests.native.streams import Peer
from vfuserver import _core
from vfuserver.errors import LocalError

MIG_DATA_READ, MIG_DATA_WRITE = 17, 18
LARGE, SMALL = 1 << 20, 100


class Answers:
    """A pump before a stream that answers each command with what `answer` is then, and a test at the other end."""

    def __init__(self) -> None:
        self.answer: object = None
        self.taken: list[object] = []
        self.stream = _core.Stream(
            lambda *_: self.answer, lambda *reply: self.taken.append(reply[3]), on_later=self.taken.append
        )
        self.stream.negotiated = True
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.pump = _core.Pump(self.stream, self.near.fileno())

    def ask(self, answer: object, tag: int = 1, flags: int = 0) -> None:
        self.answer = answer
        self.far.send(message(50, tag=tag, flags=flags))
        self.pump.run()

    def receive(self, size: int) -> bytes:
        """So many bytes, in small pieces."""
        got = bytearray()
        while len(got) < size:
            self.pump.flush()
            got += self.far.recv(min(50_000, size - len(got)))
        return bytes(got)

    def close(self) -> None:
        self.stream.close()
        self.near.close()
        self.far.close()


@pytest.fixture
def answers() -> Iterator[Answers]:
    answers = Answers()
    yield answers
    answers.close()


def borrowed(data: object) -> bool:
    """Whether somebody else has the object, too: its own name here, our argument and the call's are three."""
    return sys.getrefcount(data) > 3


@pytest.mark.parametrize("sizes", [[LARGE], [8, LARGE], [LARGE, 8], [LARGE, LARGE], [8, LARGE, 8, LARGE, 8], [8] * 40])
def test_payload_in_pieces_is_one_reply(answers: Answers, sizes: list[int]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    answers.ask(list(pieces))
    whole = answers.receive(16 + sum(sizes))
    assert replies(whole) == [(1, 50, REPLY, 0, b"".join(pieces))]
    assert not answers.stream.queued


def test_replies_keep_their_order_whether_lent_or_not(answers: Answers) -> None:
    answers.stream.send_limit = 10 * LARGE
    given = [[b"first"], [os.urandom(LARGE)], b"third", [b"", b"4", os.urandom(LARGE), b"4"], None]
    for tag, answer in enumerate(given):
        answers.ask(answer, tag)
    payloads = [b"".join(answer) if isinstance(answer, list) else answer or b"" for answer in given]
    whole = answers.receive(sum(16 + len(payload) for payload in payloads))
    assert [(tag, payload) for tag, *_, payload in replies(whole)] == list(enumerate(payloads))


def test_large_payload_is_borrowed_until_it_was_sent(answers: Answers) -> None:
    data = os.urandom(8 * LARGE)
    answers.ask([b"head", data])
    answers.answer = None
    assert borrowed(data)
    assert answers.stream.queued > LARGE
    answers.receive(16 + 4 + len(data))
    assert not borrowed(data)


def test_small_payload_is_copied_at_once(answers: Answers) -> None:
    data = bytearray(b"small")
    answers.stream.send_limit = 0
    answers.ask([data])
    data += b", and longer"
    assert replies(answers.receive(16 + 5))[0][4] == b"small"


def test_bytearray_that_is_borrowed_cannot_be_resized(answers: Answers) -> None:
    data = bytearray(8 * LARGE)
    answers.ask(data)
    with pytest.raises(BufferError):
        data.clear()
    answers.receive(16 + 8 * LARGE)
    data.clear()


@pytest.mark.parametrize("flags", [0, NO_REPLY])
def test_closing_gives_back_what_was_borrowed(answers: Answers, flags: int) -> None:
    """And so does a client that wants no reply."""
    data = os.urandom(8 * LARGE)
    answers.ask([data], flags=flags)
    answers.answer = None
    if not flags:
        assert borrowed(data)
        answers.stream.close()
    assert not borrowed(data)


def test_descriptors_go_with_the_message_behind_a_lent_one(answers: Answers) -> None:
    answers.stream.send_limit = 10 * LARGE
    data = os.urandom(LARGE)
    answers.ask([data])
    event = os.eventfd(0)
    answers.ask((b"with a descriptor", [event]), tag=2)
    os.close(event)
    assert replies(answers.receive(16 + LARGE))[0][4] == data
    answers.pump.flush()
    whole, fds, *_ = socket.recv_fds(answers.far, 4096, 4)
    assert (replies(whole)[0][4], len(fds)) == (b"with a descriptor", 1)
    os.close(fds[0])


def test_held_command_is_answered_in_pieces(answers: Answers) -> None:
    answers.ask(...)
    pieces = [b"late", os.urandom(LARGE)]
    answers.stream.complete(pieces)
    assert replies(answers.receive(16 + 4 + LARGE))[0][4] == b"".join(pieces)


def test_message_of_our_own_is_sent_in_pieces(answers: Answers) -> None:
    data = os.urandom(LARGE)
    answers.stream.send([message(11, b"head", size=16 + 4 + LARGE), data])
    assert answers.receive(16 + 4 + LARGE)[16:] == b"head" + data


def test_answer_that_is_no_list_of_buffers_is_our_bug() -> None:
    found: list[BaseException] = []
    stream = _core.Stream(lambda *_: [b"x" * LARGE, 7], lambda *_: None)
    stream.on_hook_error = lambda *error: found.append(error[2])
    assert replies(stream.feed(message(1))[0][0])[0][3] != 0
    assert [type(error) for error in found] == [TypeError]


@pytest.mark.parametrize("bad", [b"short", [], [b"a", b"b" * 100]])
def test_message_without_a_header_is_refused(answers: Answers, bad: bytes | list[bytes]) -> None:
    with pytest.raises(ValueError, match="a header of 16 bytes"):
        answers.stream.send(bad)


# -- what was received


def state(size: int = LARGE, *, tag: int = 1) -> bytes:
    return message(MIG_DATA_WRITE, os.urandom(size), tag=tag)


def test_large_state_is_a_view_and_everything_else_bytes() -> None:
    peer = Peer()
    for data in (state(), state(SMALL), message(50, bytes(LARGE))):
        peer.feed(data)
    assert [type(payload).__name__ for *_, payload, _ in peer.commands] == ["memoryview", "bytes", "bytes"]
    with pytest.raises(TypeError):
        peer.commands[0][3][0] = 1  # type: ignore[index]


@pytest.mark.parametrize("step", [1 << 12, 1 << 19, 1 << 22])
def test_views_that_are_kept_stay_as_they_were(step: int) -> None:
    """Whatever comes behind them, and however it is cut."""
    peer = Peer()
    messages = [state(SMALL if n % 3 == 2 else LARGE - n, tag=n) for n in range(9)]
    data = b"".join(messages)
    for at in range(0, len(data), step):
        peer.feed(data[at : at + step])
    assert [bytes(payload) for *_, payload, _ in peer.commands] == [one[16:] for one in messages]
    peer.stream.close()
    assert [bytes(payload) for *_, payload, _ in peer.commands] == [one[16:] for one in messages]


def test_state_that_nobody_keeps_is_received_in_the_same_place() -> None:
    seen: list[tuple[int, int]] = []

    def command(number: int, tag: int, flags: int, payload: bytes, fds: list[int]) -> bytes:
        with memoryview(payload) as view:
            seen.append((len(view), view[-1]))
        return b""

    stream = _core.Stream(command, lambda *_: None)
    stream.negotiated = True
    messages = [state(tag=n) for n in range(5)]
    for one in messages:
        stream.feed(one)
    assert seen == [(LARGE, one[-1]) for one in messages]


def test_replies_with_state_are_views_also_while_a_command_waits() -> None:
    """They are taken out of what waits before and behind them."""
    peer = Peer()
    data = os.urandom(40_000)
    whole = [message(50, b"later"), message(50, b"A"), message(MIG_DATA_READ, data, tag=9, flags=REPLY)]
    peer.feed(b"".join([*whole, message(50, b"B")]))
    assert [bytes(payload) for *_, payload in peer.answers] == [data]
    assert type(peer.answers[0][3]).__name__ == "memoryview"
    peer.stream.complete(b"")
    assert [payload for *_, payload, _ in peer.commands] == [b"later", b"A", b"B"]
    assert bytes(peer.answers[0][3]) == data


def test_view_in_the_traceback_of_a_refusal_stays_readable() -> None:
    kept: list[BaseException] = []

    def command(number: int, tag: int, flags: int, payload: bytes, fds: list[int]) -> bytes:
        raise LocalError("no")

    stream = _core.Stream(command, lambda *_: None)
    stream.negotiated = True
    stream.on_hook_error = lambda *error: kept.append(error[2])
    one = state()
    stream.feed(one)
    stream.feed(state())
    traceback = kept[0].__traceback__
    assert traceback is not None
    assert bytes(traceback.tb_frame.f_locals["payload"]) == one[16:]
