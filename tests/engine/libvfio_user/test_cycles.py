"""Thousands of clients one after the other, each with something that must go with it (issue 7).

VFUSERVER_CYCLES says how many; `make stress` says 10000.
"""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.engine.libvfio_user.conftest import migrates
from tests.interop import raw_client as raw
from tests.interop.conftest import Server, eventually, one_device

CYCLES = int(os.environ.get("VFUSERVER_CYCLES", "300"))
WARM = 100
"""Cycles after which everything that is made once has been made."""
SIZE = 1 << 20
GROWTH = 2 << 20
"""Bytes that a heap may move about, however many cycles there are; one page lost a cycle is more."""
SET, STATE, STOP_COPY, RESUMING, PRE_COPY = 1 << 17, 2, 3, 4, 6


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    options = () if migrates() else ("--migration", "none")
    with one_device(folder, "--engine", "libvfio-user", *options) as running:
        yield running


def maps(client: raw.Client, memory: int) -> None:
    client.dma_map(0, SIZE, memory)


def arms(client: raw.Client, _memory: int) -> None:
    event = os.eventfd(0)
    client.arm(raw.MSIX, [event] * 8)
    os.close(event)


def is_refused(client: raw.Client, memory: int) -> None:
    """Descriptors with what takes none."""
    client.send(raw.GET_INFO, bytes(4), [memory] * 4)


def rings(client: raw.Client, _memory: int) -> None:
    client.request(raw.GET_REGION_IO_FDS, struct.pack("=IIII", 4096, 0, 0, 0))


def ends_inside(client: raw.Client, memory: int) -> None:
    client.raw(client.message(raw.DMA_MAP, bytes(32))[:40], [memory])


def waits(client: raw.Client, _memory: int) -> None:
    """For a register that answers later."""
    client.write(raw.CONFIG, 4, 7, 2)
    client.write(raw.BAR0, 0x44, 1_000_000)
    client.send(raw.REGION_READ, raw.ACCESS.pack(0x48, raw.BAR0, 4))


def saves(client: raw.Client, _memory: int, state: int = STOP_COPY) -> None:
    if migrates():
        client.request(raw.DEVICE_FEATURE, struct.pack("=IIIi", 16, SET | STATE, state, -1))


def saves_ahead(client: raw.Client, memory: int) -> None:
    saves(client, memory, PRE_COPY)


def loads(client: raw.Client, memory: int) -> None:
    saves(client, memory, RESUMING)


def says_nothing(_client: raw.Client, _memory: int) -> None:
    """But VERSION."""


WAYS: tuple[Callable[[raw.Client, int], None], ...] = (
    *(says_nothing, maps, arms, is_refused, rings, ends_inside, waits, saves_ahead, saves, loads),
)


def go_through(server: Server, memory: int, cycles: range) -> None:
    for number in cycles:
        with raw.Client(server.path) as client:
            if number % len(WAYS) == 0:
                client.reset()
            WAYS[number % len(WAYS)](client, memory)


def threads(server: Server) -> int:
    """The program's; uvloop's ring has workers of the kernel's now and again (io_uring(7))."""
    count = 0
    for name in Path(f"/proc/{server.process.pid}/task").glob("*/comm"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            count += not name.read_text().startswith("iou-wrk")
    return count


def test_clients_that_come_and_go_leave_nothing(server: Server, memory: int) -> None:
    """Descriptors, mappings, threads and memory are as they were after the first hundred."""
    go_through(server, memory, range(WARM))
    assert eventually(server.at_rest)
    before = server.resident()
    go_through(server, memory, range(CYCLES))
    assert eventually(server.at_rest)
    assert "memfd:guest" not in server.mappings()
    assert eventually(lambda: threads(server) == 1)
    assert server.resident() - before < GROWTH
    with raw.Client(server.path) as client:
        client.reset()
        client.write(raw.CONFIG, 4, 7, 2)
        assert client.read(raw.BAR0, 0) == 0x5453_4554
