"""What two processes of a server say to each other."""

import os
import socket
from collections.abc import Iterator

import pytest

from vfuserver.control.channel import FDS, Channel
from vfuserver.errors import VfuserverError
from vfuserver.plain import Descriptor

PATIENCE = 5.0


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, sock = Channel.pair()
    theirs = Channel(sock)
    yield ours, theirs
    ours.close()
    theirs.close()


async def test_values_come_in_order_however_large(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    values = [{"a": [1, None, "b"]}, bytes(3 << 20), []]
    for value in values:
        ours.send(value)
    for value in values:
        with await theirs.receive(PATIENCE) as received:
            assert received.value == value


async def test_more_descriptors_than_one_message_takes_arrive_as_files_of_their_own(
    ends: tuple[Channel, Channel],
) -> None:
    ours, theirs = ends
    reading, writing = os.pipe()
    ours.send([Descriptor(writing)] * (2 * FDS + 7))
    os.close(writing)
    with await theirs.receive(PATIENCE) as received:
        assert len({one.fd for one in received.value}) == 2 * FDS + 7
        assert not any(os.get_inheritable(one.fd) for one in received.value)
        os.write(received.value[-1].fd, b"through")
        assert os.read(reading, 100) == b"through"
    assert os.read(reading, 100) == b"", "all of them are closed"
    os.close(reading)


async def test_silence_and_the_other_ones_end_are_said(ends: tuple[Channel, Channel]) -> None:
    ours, theirs = ends
    with pytest.raises(VfuserverError, match=r"said nothing for 0\.01 s"):
        await theirs.receive(0.01)
    ours.close()
    with pytest.raises(VfuserverError, match="closed the channel"):
        await theirs.receive(PATIENCE)


async def test_value_that_breaks_off_leaves_no_descriptor_open(ends: tuple[Channel, Channel]) -> None:
    """`nothing_leaks` counts what was received of it."""
    sock, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel, memory = Channel(other), os.memfd_create("value")
    with sock:
        socket.send_fds(sock, [(4).to_bytes(8, "little") + (3).to_bytes(4, "little")], [memory])
        socket.send_fds(sock, [b"+"], [memory])
    os.close(memory)
    with pytest.raises(VfuserverError, match="closed the channel"):
        await channel.receive(PATIENCE)
    channel.close()
