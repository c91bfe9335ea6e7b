"""Readers that do not read, clients that vanish, and crowds of them."""

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server, eventually
from tests.interop.hostile.conftest import MIB, drained


def flood(client: raw.Client, data: bytes, seconds: float) -> int:
    """Send without reading until nothing more goes for a tenth of a second, or `seconds` have passed."""
    client.socket.setblocking(False)
    sent, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        if not select.select([], [client.socket], [], 0.1)[1]:
            break
        with contextlib.suppress(BlockingIOError):
            sent += client.socket.send(data[sent % len(data) :])
    return sent


def test_reader_that_stops_reading_leaves_memory_bounded(server: Server) -> None:
    """Issue 2: the send queue is bounded; while it is full the connection is not read, and others are served."""
    before = server.resident()
    with raw.Client(server.path, timeout=5) as client, raw.Client(server.paths[1], timeout=2) as other:
        client.write(raw.CONFIG, 4, 7, 2)
        reads = b"".join(client.message(raw.REGION_READ, raw.ACCESS.pack(0, raw.BAR2, 65536)) for _ in range(1000))
        sent = flood(client, reads, 2)
        assert sent < 4 * MIB, "the server goes on reading"
        assert server.resident() < before + 24 * MIB
        for _ in range(100):
            assert len(other.read_bytes(raw.CONFIG, 0, 4096)) == 4096
        client.socket.setblocking(True)
        client.socket.settimeout(5)
        for _ in range(sent // 32):
            assert len(client.receive().payload) == 65552


def test_reader_that_stops_reading_and_vanishes_leaves_nothing(server: Server) -> None:
    """Issue 2: memory bounded, nothing leaked; ten times, so that a leak adds up."""
    peaks = []
    for _ in range(10):
        with raw.Client(server.path, timeout=5) as client:
            client.write(raw.CONFIG, 4, 7, 2)
            message = client.message(raw.REGION_READ, raw.ACCESS.pack(0, raw.BAR2, MIB))
            flood(client, message * 100, 1)
            peaks.append(server.resident())
    assert peaks[-1] < peaks[2] + 4 * MIB


def test_replies_that_are_small_and_unread_leave_memory_bounded(server: Server) -> None:
    """Issue 2: a bound in bytes alone would not hold for error replies."""
    before = server.resident()
    with raw.Client(server.path, timeout=5) as client:
        sent = flood(client, client.message(99) * 4096, 3)
        assert sent < 16 * MIB
        assert server.resident() < before + 24 * MIB


def middles(client: raw.Client, memory: int) -> list[Callable[[], object]]:
    """Things to be in the middle of."""
    read = raw.ACCESS.pack(0x48, raw.BAR0, 4)

    def job() -> None:
        client.dma_map(0, 4096)
        client.write(raw.BAR0, 0x30, 64)
        client.write(raw.BAR0, 0x34, 1)

    def slow() -> None:
        client.write(raw.BAR0, 0x44, 20_000)
        for _ in range(3):
            client.send(raw.REGION_READ, read)

    return [
        lambda: None,
        lambda: client.raw(client.message(raw.REGION_READ, read)[:9]),
        lambda: client.raw(
            client.message(raw.REGION_WRITE, raw.ACCESS.pack(0, raw.BAR2, 65536) + bytes(65536))[:30000]
        ),
        lambda: client.raw(client.message(raw.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, 0, 4096)), [memory]),
        lambda: client.raw(client.message(raw.DMA_MAP, bytes(32))[:20], [memory] * 4),
        lambda: [client.send(raw.REGION_READ, raw.ACCESS.pack(0, raw.BAR2, 65536)) for _ in range(50)],
        lambda: [client.send(raw.RESET) for _ in range(20)],
        job,
        slow,
    ]


@pytest.mark.parametrize("which", range(9))
@pytest.mark.parametrize("gentle", [True, False])
def test_client_that_vanishes_in_the_middle_leaves_a_working_server(
    server: Server, memory: int, which: int, gentle: bool
) -> None:
    """Issue 2, specification, Client Disconnection: five times each, by close and by shutdown first."""
    for _ in range(5):
        with raw.Client(server.path, timeout=3) as client:
            client.write(raw.CONFIG, 4, 7, 2)
            middles(client, memory)[which]()
            if gentle:
                client.socket.shutdown(socket.SHUT_WR)
                drained(client)


def test_connection_that_says_nothing_does_not_stop_others(server: Server) -> None:
    """Issue 2: other devices in the process are served while one connection is silent before VERSION."""
    with raw.Client(server.path, None), raw.Client(server.paths[1], timeout=2) as other:
        assert other.info()[0] == 16


def test_connections_in_a_flood_while_one_is_served_are_refused_without_leak(server: Server) -> None:
    """Issue 2: a second client on a busy socket is refused; 100 of them cost nothing."""
    with raw.Client(server.path, timeout=3) as client:
        for _ in range(100):
            with raw.Client(server.path, None, timeout=3) as second:
                assert second.closed()
        assert client.info()[0] == 16
        assert eventually(lambda: server.descriptors() == server.idle + 1)


def test_dma_maps_by_the_thousand_leave_nothing(server: Server, memory: int) -> None:
    """S1.10, S1.14: 2000 maps with descriptors, all dropped by one message."""
    with raw.Client(server.path) as client:
        for n in range(2000):
            client.dma_map(n << 12, 4096, memory)
        assert len(client.dma_unmap(0, 0, 2)) == 24
        assert "memfd:guest" not in server.mappings()
