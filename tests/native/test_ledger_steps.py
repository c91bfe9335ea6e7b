"""A server that is killed behind any one of its machine instructions loses no byte of its client's, and serves nothing
twice: whatever its ledger says at that moment, a successor goes on there."""

import gc
import mmap
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.native import stepping
from tests.native.ledgers import (
    DESCRIPTOR,
    HEAD,
    LATER,
    MAX,
    OURS,
    RECORDS,
    Client,
    Journal,
    Send,
    Server,
    assert_failed,
    assert_journal,
    assert_served,
    copy_of,
    queued,
    write_to_journal,
)
from tests.native.messages import NO_REPLY, REPLY, message, read, replies
from vfuserver import _core

WATCHED = 4096
"""Bytes at the beginning of each ring whose changes are looked at, as are those of the records before them."""


@dataclass
class Dead:
    """What a killed server leaves."""

    client: Client
    rest: list[Send]
    journal: list[int]
    report: _core.LedgerReport
    ledger: _core.Ledger | None  # a copy, if one was wanted


def never(report: _core.LedgerReport) -> bool:
    return False


class Trial:
    """A server on a socket pair, its client, and what it does while it is watched; at most `most` commands may fail."""

    def __init__(self, sends: list[Send], work: Callable[["Trial"], object], *, touched: int = 1 << 14) -> None:
        self.client = Client(sends)
        self.pending = sends
        self.work = work
        self.touched = touched
        self.most = 1
        self.ledger = _core.Ledger(MAX)
        self.server = Server()
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.pump = _core.Pump(self.server.stream, self.near.fileno())

    @classmethod
    def after(cls, dead: Dead, work: Callable[["Trial"], object]) -> "Trial":
        """A successor."""
        trial = cls(dead.rest, work)
        assert dead.ledger is not None
        trial.client, trial.ledger, trial.most = dead.client, dead.ledger, 2
        for entry in dead.journal:
            trial.server.journal.append(entry)
        return trial

    def run(self, keep: Callable[[_core.LedgerReport], bool] = never) -> list[Dead]:
        """Checks every state; `keep` says of which a copy is wanted."""
        states = []
        try:
            for data, fd in self.pending:
                socket.send_fds(self.far, [data], [] if fd is None else [fd])
            for _ in self._states():
                self.client.take(self.far)
                states.append(self._check(keep))
        finally:
            self.near.close()
            self.far.close()
            self.server.stream.close()
        return states

    def _states(self) -> Iterator[None]:
        """Whenever the ledger has changed, or what is in the sockets."""
        ring = (os.fstat(self.ledger.fd).st_size - HEAD) // 2
        seen: object = None
        with mmap.mmap(self.ledger.fd, HEAD + ring + WATCHED, prot=mmap.PROT_READ) as memory:
            for _ in stepping.steps(self._child):
                ledger = memory[:RECORDS] + memory[HEAD : HEAD + WATCHED] + memory[HEAD + ring : HEAD + ring + WATCHED]
                now = ledger, queued(self.near), queued(self.far)
                if now != seen:
                    seen = now
                    yield

    def _child(self) -> None:
        gc.disable()
        self.work(self)

    def _check(self, keep: Callable[[_core.LedgerReport], bool]) -> Dead:
        """A successor goes on with a copy of the ledger, and with what is in the socket."""
        client, rest, journal = self.client, self.client.rest(self.near), self.server.journal.entries()
        successor = Server(Journal(journal))
        report = successor.stream.use(copy_of(self.ledger.fd, self.touched))
        got = replies(client.received + successor.finish(rest))
        assert successor.stream.broken is None
        successor.stream.close()
        expected, writes = client.expected()
        most = self.most + report.awaiting
        assert_served(got, expected, most=most)
        if most == 1:
            assert_failed(got, [report.failed[1]] if report.failed and report.failed[2] else [])
        assert_journal(successor.journal.entries(), writes, doubtful=most)
        copy = copy_of(self.ledger.fd, self.touched) if keep(report) else None
        return Dead(Client(client.sends, client.received), rest, journal, report, copy)


def plain(*messages: bytes) -> list[Send]:
    return [(data, None) for data in messages]


def serve(trial: Trial) -> None:
    trial.server.stream.use(trial.ledger)
    trial.pump.run()


def serve_more(trial: Trial) -> None:
    serve(trial)
    for _ in range(3):
        trial.pump.run()


def serve_later(trial: Trial) -> None:
    serve(trial)
    trial.server.stream.send(message(OURS, b"ours", tag=77))
    trial.pump.flush()
    trial.server.answer()
    trial.pump.flush()


@pytest.fixture(autouse=True)
def traced() -> None:
    try:
        for _ in stepping.steps(lambda: None):
            pass
    except stepping.TracingRefusedError:
        pytest.skip("this machine does not let a process trace its child")


def test_tables_and_windows_any_kill_costs_the_command_in_hand_at_most() -> None:
    tables = read(0, 4, tag=1) + read(0, 8, tag=4) + message(7, b"?", tag=5)
    windows = write_to_journal(100, 2) + write_to_journal(101, 3, flags=NO_REPLY)
    Trial(plain(windows, tables), serve).run()


def test_message_in_pieces_any_kill_keeps_its_place() -> None:
    """A descriptor ends the first piece, and belongs to the whole."""
    whole = message(7, b"0123456789", tag=1)
    states = Trial([(whole[:20], 0), (whole[20:] + read(0, 4, tag=2), None)], serve_more).run()
    assert any(dead.report.awaiting for dead in states)


def test_held_command_any_kill_fails_that_and_serves_what_waited() -> None:
    """Replies behind it are taken out of their turn, and a message of our own is sent meanwhile."""
    ours = [message(OURS, b"reply", tag=70 + i, flags=REPLY) for i in range(2)]
    sent = read(0, 4, tag=1) + message(LATER, tag=2) + ours[0] + write_to_journal(100, 3) + ours[1] + read(0, 4, tag=4)
    states = Trial(plain(sent), serve_later).run()
    assert any(dead.report.last_id == 77 for dead in states)


@pytest.mark.skipif("STRESS_KILLS" not in os.environ, reason="copies 66000 bytes, one a step: make stress")
def test_gaps_any_kill_while_they_are_closed_loses_nothing() -> None:
    """So many bytes of replies that what waits is moved over them."""
    large = message(OURS, bytes(66000), tag=70, flags=REPLY)
    sent = message(LATER, tag=2) + write_to_journal(100, 3) + large + write_to_journal(101, 4)
    Trial(plain(sent), serve_more, touched=1 << 18).run()


def test_replies_with_descriptors_any_kill_fails_the_one_that_is_unsent() -> None:
    sent = read(0, 4, tag=1) + message(DESCRIPTOR, b"x", tag=2) + message(DESCRIPTOR, b"y", tag=3)
    Trial(plain(sent + write_to_journal(100, 4)), serve).run()


def test_received_descriptors_any_kill_fails_only_the_messages_that_lost_theirs() -> None:
    states = Trial([(message(7, b"?", tag=tag), 0) for tag in range(3)], serve_more).run()
    assert {dead.report.awaiting for dead in states} == {0, 1}


@pytest.mark.parametrize("before", [b"", read(0, 4, tag=1)], ids=["alone", "behind another reply"])
def test_taking_over_any_kill_leaves_it_to_the_next(before: bytes) -> None:
    """The successor is killed too: while it takes over an unsent reply with a descriptor, and while it serves."""

    def unsent(report: _core.LedgerReport) -> bool:
        return report.failed is not None and report.failed[:2] == (DESCRIPTOR, 2)

    sent = before + message(DESCRIPTOR, b"x", tag=2) + write_to_journal(100, 3)
    states = Trial(plain(sent), serve).run(keep=unsent)
    Trial.after([dead for dead in states if dead.ledger][-1], serve).run()
