"""Writes of a register that came together are one call of its hook (issue 6), and nothing else can tell.

The oracle of the property is the same map without joining, given the same bytes.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.native.messages import NO_REPLY, message, read, replies, write, write_multi
from tests.native.streams import WaitingAnswer
from vfuserver import _core
from vfuserver.errors import CommandError, DeclarationError

LATEST, ALL, PLAIN, HOOKED, ARRAY, WIDE = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x20
FAILS, WAITS = 0xEE, 0xAA


class Joined:
    """A stream with two joined registers, an array of two, one of 8 bytes, a plain one and an ordinary hook."""

    def __init__(self, *, joined: bool = True) -> None:
        latest, all_ = (_core.LATEST, _core.ALL) if joined else (0, 0)
        rows = [self._row(LATEST, latest), self._row(ALL, all_), self._row(PLAIN, 0, hook=0), self._row(HOOKED, 0)]
        rows += [self._row(ARRAY, all_, count=2), self._row(WIDE, all_, width=8)]
        hooks: dict[int, Any] = {row: (None, self._hook(row)) for row in (0, 1, 3, 5)}
        hooks[4] = (None, lambda element, value: self.calls.append((4 + 10 * element, value)))
        self.calls: list[tuple[int, Any]] = []
        self.laters: list[object] = []
        self.gate = _core.Gate(_core.Gate.RUNNING | _core.Gate.MEMORY)
        self.table = _core.Table(_core.Layout(64, rows), hooks, gate=self.gate, needs=_core.Gate.MEMORY)
        self.stream = _core.Stream(lambda *_: b"", lambda *_: None, on_later=self.laters.append)
        self.stream.regions = [(64, self.table), (64, self.table)]
        self.stream.negotiated = True

    @staticmethod
    def _row(
        offset: int, flags: int, *, count: int = 1, width: int = 4, hook: int = _core.WRITE_HOOK
    ) -> _core.RegisterRow:
        ones = (1 << 8 * width) - 1
        return (offset, width, count, bytes(width * count), ones, 0, ones, 0, 0, hook | flags)

    def _hook(self, row: int) -> Callable[[Any], object]:
        def hook(value: Any) -> object:
            self.calls.append((row, value))
            if value in (FAILS, [FAILS]):
                raise CommandError(6, "no such device")
            return WaitingAnswer() if value in (WAITS, [1, WAITS]) else None

        return hook

    def feed(self, data: bytes) -> list[tuple[int, int, int, int, bytes]]:
        return replies(b"".join(chunk for chunk, _ in self.stream.feed(data)))


def post(offset: int, value: int, region: int = 0, width: int = 4) -> bytes:
    return write(offset, value.to_bytes(width, "little"), region, flags=NO_REPLY)


def test_posted_writes_of_one_batch_are_one_call() -> None:
    wire = Joined()
    assert wire.feed(b"".join(post(LATEST, value) for value in range(300))) == []
    assert wire.feed(b"".join(post(ALL, value) for value in range(300))) == []
    assert wire.calls == [(0, 299), (1, list(range(300)))]
    assert (wire.table.get(0), wire.table.get(1), wire.stream.received) == (299, 299, 600)


def test_entries_of_one_write_multi_are_one_call_and_one_reply() -> None:
    wire = Joined()
    entries = [(0, LATEST, bytes([n, 0, 0, 0])) for n in range(3)] + [(0, ALL, bytes([n, 0, 0, 0])) for n in range(3)]
    wide = [(0, WIDE, bytes(7) + bytes([n])) for n in (1, 2)]
    assert [answer[3:] for answer in wire.feed(write_multi(*entries, *wide))] == [(0, (8).to_bytes(8, "little"))]
    assert wire.calls == [(0, 2), (1, [0, 1, 2]), (5, [1 << 56, 2 << 56])]


def test_write_that_wants_a_reply_ends_what_is_joined_and_is_answered_after_the_call() -> None:
    wire = Joined()
    (answer,) = wire.feed(post(ALL, 1) + write(ALL, bytes([2, 0, 0, 0]), tag=7) + post(ALL, 3))
    assert (answer[0], answer[3], wire.calls) == (7, 0, [(1, [1, 2]), (1, [3])])


@pytest.mark.parametrize(
    ("between", "calls"),
    [
        (post(PLAIN, 9), []),
        (post(HOOKED, 9), [(3, 9)]),
        (read(PLAIN, 4), []),
        (post(ALL, 9, width=2), [(1, [9])]),
        (post(ALL + 2, 9, width=2), [(1, [9 << 16 | 1])]),
        (post(ALL, 9, region=1), [(1, [9])]),
        (post(ALL, 9 << 32, width=8), [(1, [0])]),
        (message(13), []),
    ],
)
def test_anything_between_two_writes_keeps_them_apart_and_in_order(between: bytes, calls: list[Any]) -> None:
    """Even what has no effect: nothing is reordered, so there is nothing to judge."""
    wire = Joined()
    wire.feed(post(ALL, 1) + between + post(ALL, 2))
    assert wire.calls == [(1, [1]), *calls, (1, [2])]


def test_elements_of_an_array_are_joined_each_by_itself() -> None:
    wire = Joined()
    wire.feed(b"".join(post(ARRAY + 4 * element, value) for element, value in [(0, 1), (0, 2), (1, 3), (1, 4), (0, 5)]))
    assert wire.calls == [(4, [1, 2]), (14, [3, 4]), (4, [5])]


def test_read_behind_joined_writes_sees_what_they_did() -> None:
    wire = Joined()
    (answer,) = wire.feed(post(LATEST, 1) + post(LATEST, 2) + read(LATEST, 4))
    assert answer[4][16:] == bytes([2, 0, 0, 0])


def test_half_a_message_is_not_waited_for() -> None:
    wire = Joined()
    data = post(ALL, 1) + post(ALL, 2) + post(ALL, 3)
    wire.feed(data[:-5])
    assert wire.calls == [(1, [1, 2])]
    wire.feed(data[-5:])
    assert wire.calls == [(1, [1, 2]), (1, [3])]


def test_hook_that_fails_gives_its_error_to_the_write_that_ended_the_run() -> None:
    wire = Joined()
    (answer,) = wire.feed(post(LATEST, 1) + write(LATEST, bytes([FAILS, 0, 0, 0]), tag=5) + post(LATEST, 2))
    assert (answer[0], answer[3], wire.calls) == (5, 6, [(0, FAILS), (0, 2)])


def test_hook_that_answers_later_holds_what_follows() -> None:
    wire = Joined()
    data = post(ALL, 1) + write(ALL, bytes([WAITS, 0, 0, 0]), tag=3) + post(ALL, 5) + read(ALL, 4, tag=4)
    assert wire.feed(data) == []
    assert (wire.calls, len(wire.laters)) == ([(1, [1, WAITS])], 1)
    wire.stream.complete(None)
    answers = replies(b"".join(chunk for chunk, _ in wire.stream.take()))
    assert [answer[0] for answer in answers] == [3, 4]
    assert wire.calls[1:] == [(1, [5])]


def test_hook_that_answers_later_inside_a_write_multi_holds_the_rest_of_it() -> None:
    wire = Joined()
    assert wire.feed(write_multi(*((0, ALL, bytes([n, 0, 0, 0])) for n in (1, WAITS)), (0, LATEST, bytes(4)))) == []
    assert wire.calls == [(1, [1, WAITS])]
    wire.stream.complete(77)
    assert len(wire.stream.take()) == 1
    assert wire.calls[1:] == [(0, 0)]
    assert wire.table.get(1) == 77


def test_stopped_device_is_written_by_nobody_and_counts_each_refusal() -> None:
    wire = Joined()
    wire.gate.clear(_core.Gate.RUNNING)
    wire.feed(post(ALL, 1) * 3)
    assert (wire.calls, wire.gate.refused) == ([], 3)


def test_descriptors_keep_messages_apart_and_are_refused_as_ever() -> None:
    wire = Joined()
    fd = os.open("/dev/null", os.O_RDONLY)
    (answer,) = replies(b"".join(chunk for chunk, _ in wire.stream.feed(post(ALL, 1) + write(ALL, bytes(4)), [fd])))
    assert (answer[3], wire.calls) == (22, [(1, [1])])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_stream_with_a_ledger_joins_none_as_one_command_may_be_lost_with_its_process() -> None:
    wire = Joined()
    ledger = _core.Ledger(1 << 20)
    wire.stream.use(ledger)
    wire.feed(post(ALL, 1) + post(ALL, 2))
    assert wire.calls == [(1, [1]), (1, [2])]
    wire.stream.close()


@pytest.mark.parametrize("flags", [_core.LATEST, _core.WRITE_HOOK | _core.ALL | _core.COUNT])
def test_row_whose_writes_cannot_be_joined_is_refused(flags: int) -> None:
    with pytest.raises(DeclarationError, match="joined for a hook"):
        _core.Layout(4, [(0, 4, 1, bytes(4), 0, 0, 0, 0, 0, flags)])


def any_message(chance: random.Random) -> bytes:
    offset = chance.choice([LATEST, LATEST, ALL, ALL, PLAIN, HOOKED, ARRAY, ARRAY + 4])
    value, kind = chance.randrange(0x80), chance.randrange(10)
    if kind == 0:
        return read(offset, 4)
    if kind == 1:
        return write(offset, value.to_bytes(4, "little"))
    if kind == 2:
        return post(offset, value, width=chance.choice([1, 2]))
    if kind == 3:
        entries = [(0, chance.choice([LATEST, ALL, PLAIN]), bytes([n, 0, 0, 0])) for n in range(chance.randrange(1, 6))]
        return write_multi(*entries, flags=chance.choice([0, NO_REPLY]))
    return post(offset, value) * chance.randrange(1, 4)


def each(calls: list[tuple[int, Any]]) -> list[tuple[int, int]]:
    """Lists of values as the single writes that they stand for."""
    return [(row, one) for row, value in calls for one in (value if isinstance(value, list) else [value])]


@pytest.mark.parametrize("seed", range(20))
def test_joined_map_does_what_the_plain_one_does(seed: int) -> None:
    """The same replies and stored values, all values in the same order; of LATEST the last one before anything else."""
    chance = random.Random(seed)
    joined, plain = Joined(), Joined(joined=False)
    for _ in range(20):
        batch = b"".join(any_message(chance) for _ in range(chance.randrange(1, 20)))
        assert joined.feed(batch) == plain.feed(batch)
        assert [joined.table.snapshot(row) for row in range(6)] == [plain.table.snapshot(row) for row in range(6)]
        found, wanted = each(joined.calls), each(plain.calls)
        assert [call for call in found if call[0]] == [call for call in wanted if call[0]]
        last = [call for call, after in zip(wanted, [*wanted[1:], (-1, 0)], strict=False) if call[0] or after[0]]
        assert is_subsequence(found, wanted)
        assert is_subsequence(last, found)
        assert len(joined.calls) <= len(plain.calls)
        joined.calls.clear()
        plain.calls.clear()


def is_subsequence(some: list[tuple[int, int]], whole: list[tuple[int, int]]) -> bool:
    rest = iter(whole)
    return all(one in rest for one in some)
