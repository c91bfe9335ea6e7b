"""Pump.step, a loop's callback: what is usual is told to nobody, anything else to the owner."""

import socket
from collections.abc import Iterator

import pytest

from tests.native.messages import read, replies
from tests.native.streams import Peer
from vfuserver._core import Pump


class Owner:
    """A pump on one end of a socket pair, and what its steps have told."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.near, self.far = socket.socketpair()
        self.near.setblocking(False)
        self.pump = Pump(peer.stream, self.near.fileno())
        self.told: list[int] = []
        self.asked = 0

    def ask(self) -> None:
        self.asked += 1

    def step(self) -> None:
        self.pump.step(self.ask, self.told.append)


@pytest.fixture
def owner(peer: Peer) -> Iterator[Owner]:
    owner = Owner(peer)
    yield owner
    owner.peer.stream.close()
    owner.near.close()
    owner.far.close()


def test_usual_turn_is_served_and_told_to_nobody(owner: Owner) -> None:
    owner.pump.quiet = True
    owner.far.sendall(read(0, 4, tag=7))
    owner.step()
    assert [answer[0] for answer in replies(owner.far.recv(4096))] == [7]
    assert (owner.told, owner.asked) == ([], 0)


def test_end_of_stream_is_told(owner: Owner) -> None:
    owner.pump.quiet = True
    owner.far.shutdown(socket.SHUT_WR)
    owner.step()
    assert (owner.told, owner.asked) == ([Pump.EOF], 0)


def test_owner_that_is_to_know_of_all_is_asked_to_run(owner: Owner) -> None:
    owner.far.sendall(read(0, 4))
    owner.step()
    assert (owner.told, owner.asked) == ([], 1)
    assert owner.pump.run() == Pump.READ, "the message is still there"


def test_closed_stream_is_left_to_the_owner(owner: Owner) -> None:
    owner.pump.quiet = True
    owner.peer.stream.close()
    owner.step()
    assert (owner.told, owner.asked) == ([], 1)


def test_step_without_both_callables_is_refused(owner: Owner) -> None:
    with pytest.raises(TypeError, match="2 arguments, not 1"):
        owner.pump.step(owner.ask)  # type: ignore[call-arg]


def test_what_the_owner_raises_goes_to_the_loop(owner: Owner) -> None:
    def fail(flags: int) -> None:
        raise RuntimeError(f"told {flags}")

    owner.pump.quiet = True
    owner.far.shutdown(socket.SHUT_WR)
    with pytest.raises(RuntimeError, match=f"told {Pump.EOF}"):
        owner.pump.step(owner.ask, fail)
