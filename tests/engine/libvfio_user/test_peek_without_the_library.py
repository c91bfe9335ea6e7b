"""Looking at a message that is still arriving; the library has no part in it."""

import os
import socket
from threading import Thread

import pytest

from vfuserver.engine.libvfio_user.peek import peek
from vfuserver.wire import command_message

ROUNDS = 400
"""As many as it takes for a piece to come at the wrong moment: a second or two."""
PIECE = 7
REGION_READ = 9


@pytest.fixture
def message() -> bytes:
    return command_message(REGION_READ, 1, bytes(16))


def send_in_pieces(end: socket.socket, message: bytes) -> None:
    for at in range(0, len(message), PIECE):
        end.send(message[at : at + PIECE])


def test_header_that_arrives_while_it_is_looked_at_is_not_taken_for_a_cut_one(message: bytes) -> None:
    for _ in range(ROUNDS):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            client = Thread(target=send_in_pieces, args=(theirs, message))
            client.start()
            look = peek(ours)
            while look is None or not look.whole:
                assert look is None or not look.cut
                look = peek(ours)
            client.join()
            assert look.size == look.arrived == len(message)


def test_header_with_descriptors_inside_is_a_cut_one(message: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        event = os.eventfd(0)
        socket.send_fds(theirs, [message[:PIECE]], [event])
        os.close(event)
        theirs.send(message[PIECE:])
        look = peek(ours)
        assert look is not None
        assert look.cut
