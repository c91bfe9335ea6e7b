"""A device behind the core's receiver: what REGION_READ and REGION_WRITE messages do to hooks, and when they answer."""

import asyncio
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from vfuserver import Bar, CommandError, KiB, PciDevice, PciIdentity, State
from vfuserver._core import Stream
from vfuserver.vfio import Later

HEADER = struct.Struct("<HHIII")
ACCESS = struct.Struct("<QII")
READ, WRITE, ERROR = 9, 10, 0x20


class Slow(PciDevice):
    """An asynchronous register, one that fails, a plain one."""

    identity = PciIdentity(vendor=0x1234, device=0x0008)
    mmio = Bar(0, size=4 * KiB)
    slow = mmio.rw(0x00, reset=1)
    failing = mmio.rw(0x04)
    plain = mmio.rw(0x08, reset=3)
    released = State(False)

    @slow.on_read
    async def answer(self) -> int:
        while not self.released:
            await asyncio.sleep(0)
        return 42

    @failing.on_write
    async def fail(self, _value: int) -> None:
        raise CommandError(28)


class Connection:
    """Raw messages to a stream that serves one device."""

    def __init__(self, device: PciDevice) -> None:
        self.stream = Stream(self.unexpected, self.unexpected, on_later=self.later)
        self.stream.negotiated = True
        self.stream.regions = [(region.size, region.table or region.access) for region in device.regions]
        device.config.write(4, 2, 0x0007)
        self.sent = b""
        self.waiting: list[Later] = []

    def unexpected(self, *args: object) -> Any:
        raise AssertionError(args)

    def later(self, held: object) -> None:
        assert isinstance(held, Later)
        held.when_done(self.stream.complete)
        self.waiting.append(held)

    def close(self) -> None:
        """As a session that ends: nobody waits any more."""
        for later in self.waiting:
            later.cancel()
        self.stream.close()

    def send(self, command: int, offset: int, width: int, data: bytes = b"") -> None:
        size = HEADER.size + ACCESS.size + len(data)
        self.take(self.stream.feed(HEADER.pack(1, command, size, 0, 0) + ACCESS.pack(offset, 0, width) + data))

    def take(self, outputs: list[tuple[bytes, tuple[int, ...]]]) -> None:
        self.sent += b"".join(data for data, _ in outputs)

    def replies(self) -> list[tuple[int, bytes]]:
        """(errno, data) of each reply since the last question."""
        self.take(self.stream.take())
        stream, found, self.sent = self.sent, [], b""
        while stream:
            _, _, size, _, errno = HEADER.unpack_from(stream)
            found.append((errno, stream[HEADER.size + ACCESS.size : size]))
            stream = stream[size:]
        return found

    async def answered(self) -> list[tuple[int, bytes]]:
        async with asyncio.timeout(5):
            while self.stream.held:
                await asyncio.sleep(0)
        return self.replies()


@pytest.fixture
def device() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.close()


@pytest.fixture
def connection(device: Slow) -> Iterator[Connection]:
    made = Connection(device)
    yield made
    made.close()


async def test_asynchronous_read_answers_later_and_in_order(device: Slow, connection: Connection) -> None:
    """architecture.md, Answering later."""
    connection.send(READ, 0, 4)
    connection.send(READ, 8, 4)
    assert (connection.replies(), connection.stream.held) == ([], True)
    device.released = True
    assert await connection.answered() == [(0, b"\x2a\0\0\0"), (0, b"\x03\0\0\0")]


async def test_other_connections_go_on_meanwhile(connection: Connection) -> None:
    other = Slow()
    neighbour = Connection(other)
    connection.send(READ, 0, 4)
    neighbour.send(READ, 8, 4)
    assert neighbour.replies() == [(0, b"\x03\0\0\0")]
    neighbour.close()
    other.close()


async def test_error_of_an_asynchronous_write_keeps_its_errno(connection: Connection) -> None:
    connection.send(WRITE, 4, 4, b"\0\0\0\0")
    assert await connection.answered() == [(28, b"")]


async def test_stopped_device_holds_the_answer_until_it_runs(device: Slow, connection: Connection) -> None:
    """S3.9."""
    connection.send(READ, 0, 4)
    device.stop()
    device.released = True
    await asyncio.sleep(0.01)
    assert connection.stream.held
    device.run()
    assert await connection.answered() == [(0, b"\x2a\0\0\0")]
