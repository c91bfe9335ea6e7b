"""Doorbells across processes: what a guest's KVM would signal reaches testdev, and what its gate does to it."""

import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server, counted, eventually

DOORBELL, COUNT = 0x10, 0x14
SUB_REGION = struct.Struct("=QQIIIIQ")


class Bell(NamedTuple):
    """One sub-region and its eventfd."""

    offset: int
    size: int
    kind: int
    flags: int
    fd: int


def ask(client: raw.Client, region: int) -> list[Bell]:
    """Everything of a region; the descriptors are the caller's."""
    reply = client.request(raw.GET_REGION_IO_FDS, struct.pack("=4I", 4096, 0, region, 0))
    argsz, flags, index, count = struct.unpack_from("=4I", reply.payload)
    assert (argsz, flags, index) == (len(reply.payload), 0, region)
    rows = [SUB_REGION.unpack_from(reply.payload, 16 + SUB_REGION.size * n) for n in range(count)]
    fds = [client.take(fd) for fd in reply.fds]
    return [Bell(row[0], row[1], row[3], row[4], fds[row[2]]) for row in rows]


@pytest.fixture
def bell(client: raw.Client) -> Iterator[Bell]:
    """testdev's."""
    (one,) = ask(client, raw.BAR0)
    yield one
    os.close(one.fd)


def test_the_doorbell_of_testdev_is_offered(bell: Bell, client: raw.Client) -> None:
    assert bell[:4] == (DOORBELL, 4, 0, 0)
    assert ask(client, raw.BAR1) == ask(client, raw.CONFIG) == []


def test_rings_reach_the_model_beside_writes(bell: Bell, client: raw.Client) -> None:
    """Every ring is one write."""
    os.eventfd_write(bell.fd, 1)
    client.write(raw.BAR0, DOORBELL, 1)
    os.eventfd_write(bell.fd, 1000)
    assert eventually(lambda: client.read(raw.BAR0, COUNT) == 1002)


def test_a_ring_while_memory_is_off_is_dropped(bell: Bell, client: raw.Client) -> None:
    """S0.16: and the next one counts."""
    client.write(raw.CONFIG, 4, 4, 2)
    os.eventfd_write(bell.fd, 7)
    assert eventually(lambda: not counted(bell.fd))
    client.write(raw.CONFIG, 4, 7, 2)
    os.eventfd_write(bell.fd, 1)
    assert eventually(lambda: client.read(raw.BAR0, COUNT) == 1)


def test_a_flood_of_rings_holds_up_nobody(server: Server, bell: Bell, client: raw.Client) -> None:
    """More rings than can ever be served: this connection and the other one are answered, and the end ends it."""
    os.eventfd_write(bell.fd, (1 << 63) - 1)
    with raw.Client(server.paths[1]) as other:
        for _ in range(50):
            assert other.info()[0] == client.info()[0] == 16
    client.reset()
    client.write(raw.CONFIG, 4, 7, 2)
    assert eventually(lambda: client.read(raw.BAR0, COUNT) == 0)


def test_eventfds_end_with_their_connection(own_server: Server) -> None:
    """A former client's ring is not the next one's, and the server keeps nothing."""
    with raw.Client(own_server.path) as client:
        (former,) = ask(client, raw.BAR0)
    with raw.Client(own_server.path) as client:
        client.write(raw.CONFIG, 4, 7, 2)
        (own,) = ask(client, raw.BAR0)
        os.eventfd_write(former.fd, 5)
        os.eventfd_write(own.fd, 1)
        assert eventually(lambda: client.read(raw.BAR0, COUNT) == 1)
    assert eventually(own_server.at_rest)
    for fd in (former.fd, own.fd):
        os.close(fd)
