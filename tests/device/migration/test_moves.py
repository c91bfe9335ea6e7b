"""Devices that migrate while they work: nothing is lost, nothing is done twice."""

import asyncio
import mmap
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.device.migration.models import Streamed
from tests.device.migration.moving import AHEAD, LOAD, START, STOPPED_FIRST, S, feed, go, load, migration, read_all
from vfuserver import PciDevice
from vfuserver import load as load_class
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import PciIrq

ROUNDS, AT_A_TIME = 1000, 100
RAM, RAM_SIZE = 0x100_0000, 0xA_0000
FILLED = 0x8_1000
"""More than two pieces of testdev's engine."""
VENDOR_SWITCH = 8
COUNTER = 0x81000
MSIX = PciIrq.MSIX
DONE = 1
VECTORS = (0, 2, 3, 4, 5)
"""What a round raises itself, each once; DONE is the engine's."""
BUSY = 1


class Guest:
    """A guest with one testdev, which it takes along to another one."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.device = load_class("testdev")()
        self.client, self.ram = self._connect()
        self.client.enable()
        self.client.arm(MSIX, 8)
        self.taken = dict.fromkeys(range(8), 0)
        self.rings = 0

    def _connect(self) -> tuple[LocalClient, mmap.mmap]:
        client = LocalClient(self.device)
        self.device.attach(client)
        return client, client.memory.add(RAM, RAM_SIZE)

    def write(self, offset: int, value: int, width: int = 4) -> None:
        """A register of BAR0."""
        self.client.write(0, offset, value, width)

    def ring(self) -> None:
        """The doorbell, by a hook."""
        self.write(0x10, 0)
        self.rings += 1

    def fill(self, value: int) -> None:
        """Starts the engine, which interrupts when it is done."""
        self.write(0x04, value)
        self.write(0x28, RAM, 8)
        self.write(0x30, FILLED)
        self.write(0x34, 0x104)

    def count(self, on: int) -> None:
        """Starts and stops the counter in BAR2."""
        place = next(one.start for one in self.device.config.capabilities if one.name == "VendorSpecific")
        self.client.write_config(place + VENDOR_SWITCH, bytes([on]))

    def counted(self) -> int:
        """The counter in BAR2."""
        return self.client.read(2, COUNTER, 8)

    def collect(self) -> None:
        """Every interrupt that came."""
        for vector in self.taken:
            self.taken[vector] += self.client.taken(MSIX, vector)

    async def move(self) -> None:
        """To another testdev, with its memory; in some way that there is."""
        before, after = self.device, load_class("testdev")()
        ahead = self.chance.random() < 0.5
        size = self.chance.choice([4096, 65536, 1 << 20])
        stream = b""
        if ahead:
            await go(before, *AHEAD[:2])
            for _ in range(self.chance.randrange(3)):
                stream += migration(before).read(size)
                await asyncio.sleep(0)
            await go(before, *AHEAD[1:])
        else:
            await go(before, *STOPPED_FIRST)
        stream += read_all(before, size)
        self.collect()
        expected = before.snapshot()
        await go(after, *LOAD)
        feed(after, stream, size)
        await go(after, S.RESUMING, S.STOP)
        assert after.snapshot() == expected
        assert after.config.image == before.config.image
        self.device = after
        old, was = self.client, bytes(self.ram)
        self.client, self.ram = self._connect()
        self.ram[:] = was
        old.close()
        before.close()
        if self.chance.random() < 0.5:
            self.client.arm(MSIX, 8)
            await go(after, *START[1:])
        else:
            await go(after, *START[1:])
            self.client.arm(MSIX, 8)

    def close(self) -> None:
        self.client.close()
        self.device.close()


@asynccontextmanager
async def guest(chance: random.Random) -> AsyncIterator[Guest]:
    made = Guest(chance)
    try:
        yield made
    finally:
        made.close()


async def one_round(one: Guest) -> None:
    """Work and moves, in a random order, then everything is accounted for."""
    chance, value = one.chance, one.chance.randrange(1, 256)
    steps = [one.ring] * chance.randrange(4) + [lambda v=vector: one.write(0x18, v) for vector in VECTORS]
    steps += [lambda: one.fill(value), lambda: one.count(1)]
    chance.shuffle(steps)
    moves = {chance.randrange(len(steps)) for _ in range(chance.randint(1, 2))}
    counted = 0
    for at, step in enumerate(steps):
        if chance.random() < 0.3:
            vector = chance.choice(VECTORS)
            one.client.mask(MSIX, vector)
        step()
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        if at in moves:
            await one.move()
            assert counted <= one.counted()
        counted = one.counted()
    one.count(0)
    for vector in VECTORS:
        one.client.unmask(MSIX, vector)
    async with asyncio.timeout(10):
        while one.client.read(0, 0x38) == BUSY:
            await asyncio.sleep(0)
    one.collect()
    assert one.client.read(0, 0x38) == 2
    assert one.client.read(0, 0x14) == one.rings
    assert one.ram[:] == bytes([value]) * FILLED + bytes(RAM_SIZE - FILLED)
    assert one.taken == {vector: vector in (*VECTORS, DONE) for vector in range(8)}


@pytest.mark.parametrize("first", range(0, ROUNDS, AT_A_TIME))
async def test_testdev_moves_while_it_works_and_nothing_is_lost_or_doubled(first: int) -> None:
    """S3.16, S3.24: BAR2's counter, DMA jobs, doorbells, pending interrupts; 1000 random interleavings."""
    for seed in range(first, first + AT_A_TIME):
        async with guest(random.Random(seed)) as one:
            await one_round(one)


async def test_memory_that_goes_ahead_and_changes_is_sent_again() -> None:
    """S3.11-S3.13: initial bytes fall, dirty ones come and go, unread ones move on, and only what changed is in
    the rest."""
    source, target = Streamed(), Streamed()
    source.pixels[:] = bytes(range(256)) * (len(source.pixels) // 256)
    await go(source, S.RUNNING, S.PRE_COPY)
    port = migration(source)
    stream, initial = b"", []
    while piece := port.read(300_000):
        stream += piece
        initial.append(port.precopy()[0])
    assert len(stream) > 3 << 20
    assert initial == sorted(initial, reverse=True)
    assert initial[0] > 2 << 20
    assert port.precopy() == (0, 0)
    source.pixels[5] ^= 1
    assert 1 << 20 < port.precopy()[1] < 2 << 20
    await go(source, S.PRE_COPY, S.PRE_COPY_P2P, S.PRE_COPY)
    stream += port.read(1000)
    source.pixels[(2 << 20) + 7] ^= 1
    await go(source, S.PRE_COPY, S.PRE_COPY_P2P, S.STOP_COPY)
    left = port.left()
    rest = read_all(source)
    assert abs(left - len(rest)) < 1024
    assert len(rest) < (2 << 20) + 4096
    await load(target, stream + rest)
    assert bytes(target.pixels) == bytes(source.pixels)
    source.close()
    target.close()


async def test_memory_that_nobody_read_ahead_is_in_the_rest() -> None:
    """S3.12: a client need not read in PRE_COPY."""
    source, target = Streamed(), Streamed()
    source.pixels[9] = 9
    target.pixels[10] = 1
    await go(source, *AHEAD)
    await load(target, read_all(source))
    assert bytes(target.pixels) == bytes(source.pixels)
    source.close()
    target.close()


async def test_pre_copy_that_is_given_up_leaves_nothing() -> None:
    """S3.11: leaving ends the stream; the next one is whole."""
    source, target = Streamed(), Streamed()
    await go(source, S.RUNNING, S.PRE_COPY)
    source.pixels[1] = 1
    migration(source).read(1 << 21)
    await go(source, S.PRE_COPY, S.RUNNING, S.PRE_COPY, S.PRE_COPY_P2P, S.STOP_COPY)
    await load(target, read_all(source))
    assert bytes(target.pixels) == bytes(source.pixels)
    source.close()
    target.close()


async def test_edu_moves_in_the_middle_of_a_factorial_and_of_dma() -> None:
    """S3.16: jobs of a stock driver's device."""
    one, other = (load_class("edu")() for _ in range(2))
    with LocalClient(one) as client, LocalClient(other) as second:
        client.enable()
        client.memory.add(RAM, 0x1000)[:4] = b"data"
        second.memory.add(RAM, 0x1000)[:4] = b"data"
        for offset, value in ((0x80, RAM), (0x88, 0x40000), (0x90, 4), (0x98, 5)):
            client.write(0, offset, value, 8)
        client.write(0, 0x20, 0x80)
        client.write(0, 0x08, 10)
        assert client.read(0, 0x20) == 0x81
        await go(one, *STOPPED_FIRST)
        await load(other, read_all(one))
        await go(other, *START[1:])
        second.arm(PciIrq.MSI)
        while second.read(0, 0x20) & 1 or second.read(0, 0x98, 8) & 1:
            await asyncio.sleep(0)
        assert second.read(0, 0x08) == 3628800
        assert second.read(0, 0x24) == 0x101
        assert vars(other)["buffer"][:4] == b"data"
        assert second.taken(PciIrq.MSI) > 0
    for device in (one, other):
        assert isinstance(device, PciDevice)
        device.close()
