"""Posted doorbells through a real socket: joined where they came together, and never lost or late (issue 6)."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import raw
from tests.native.messages import NO_REPLY, message, write
from vfuserver import Bar, PciDevice, PciIdentity
from vfuserver.client import Client
from vfuserver.engine import Server, listen
from vfuserver.session import SessionOptions

RESET = 13
VERSION = b"\0\0\0\0" + b'{"capabilities": {}}\0'


class Bells(PciDevice):
    """Tells what it was called with, and what was true then."""

    identity = PciIdentity(vendor=0x1234, device=0x000C)
    decodes_always = True
    mmio = Bar(0, size=4096)
    latest = mmio.rw(0x00)
    all_of_them = mmio.rw(0x04)
    control = mmio.rw(0x08)

    def __init__(self, **options: Any) -> None:
        self.seen: list[Any] = []
        super().__init__(**options)

    @latest.on_latest_write
    def on_latest(self, value: int) -> None:
        self.seen.append(value)

    @all_of_them.on_writes
    def on_all(self, values: list[int]) -> None:
        self.seen.append((self.control, values))


@pytest.fixture
def device() -> Iterator[Bells]:
    made = Bells()
    yield made
    made.close()


def post(offset: int, value: int) -> bytes:
    return write(offset, value.to_bytes(4, "little"), flags=NO_REPLY)


async def exchange(sock: socket.socket, data: bytes, size: int) -> bytes:
    """Sends all at once; the first `size` bytes that come back."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    await loop.sock_sendall(sock, data)
    got = b""
    while len(got) < size:
        got += await loop.sock_recv(sock, 65536)
    return got


async def connected(path: Path) -> socket.socket:
    sock = raw(path)
    await exchange(sock, message(1, VERSION), 17)
    return sock


@pytest.mark.parametrize("poll", [{}, {"poll": "off"}])
async def test_burst_of_posted_writes_is_few_calls_in_order(folder: Path, device: Bells, poll: Any) -> None:
    async with Server(SessionOptions(**poll)) as server:
        server.add(device, listen(folder / "s"))
        with await connected(folder / "s") as sock:
            burst = b"".join(post(0x04, value) for value in range(100)) + write(0x04, bytes([100, 0, 0, 0]), tag=9)
            await exchange(sock, burst, 32)
    assert device.seen == [(0, list(range(101)))]


async def test_reply_of_a_reset_leaves_after_what_was_rung_before_it(folder: Path, device: Bells) -> None:
    async with Server() as server:
        server.add(device, listen(folder / "s"))
        with await connected(folder / "s") as sock:
            await exchange(sock, post(0x04, 1) + post(0x04, 2) + message(RESET) + post(0x00, 3), 16)
            await exchange(sock, write(0x00, bytes(4)), 32)
        assert device.all_of_them == 0
    assert device.seen == [(0, [1, 2]), 3, 0]


async def test_other_register_keeps_its_place_between_rings(folder: Path, device: Bells) -> None:
    async with Server() as server:
        server.add(device, listen(folder / "s"))
        with await connected(folder / "s") as sock:
            parts = [post(0x04, 1), post(0x04, 2), post(0x08, 7), post(0x04, 3), write(0x08, bytes(4))]
            await exchange(sock, b"".join(parts), 32)
    assert device.seen == [(0, [1, 2]), (7, [3])]


async def test_end_of_a_connection_behind_rings_loses_none(folder: Path, device: Bells) -> None:
    async with Server() as server:
        server.add(device, listen(folder / "s"))
        sock = await connected(folder / "s")
        sock.send(b"".join(post(0x04, value) for value in range(50)))
        sock.close()
        async with await Client.connect(folder / "s"):
            pass
    assert [value for _, values in device.seen for value in values] == list(range(50))


async def test_our_client_posts_a_write_multi_as_one_call(folder: Path, device: Bells) -> None:
    async with Server() as server:
        server.add(device, listen(folder / "s"))
        async with await Client.connect(folder / "s") as client:
            await client.region_write_multi([(0, 0x00, bytes([n, 0, 0, 0])) for n in range(9)], posted=True)
            await client.region_read(0, 0, 4)
    assert device.seen == [8]
