"""A device that is handed from process to process while it works: nothing is lost, nothing is done twice."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.device.handover.carrying import carried, done, reconnected
from tests.device.migration.moving import START, STOPPED_FIRST, S, feed, go, migration
from tests.device.migration.test_moves import MSIX, RAM, RAM_SIZE, Guest, one_round
from vfuserver import CommandError, PciDevice
from vfuserver import load as load_class
from vfuserver.testing.local_client import LocalMemory

ROUNDS, AT_A_TIME = 300, 100
TO_LOAD = (S.RUNNING_P2P, S.STOP, S.RESUMING)


class Replaced(Guest):
    """A guest whose server is replaced, in one of many ways, also in the middle of a migration."""

    async def move(self) -> None:
        """To another process, or not quite; or to another machine through several processes."""
        await self.chance.choice([self.upgrade, self.upgrade, self.refused, self.migrate])()

    async def upgrade(self) -> None:
        """The next process."""
        before, after = self.device, load_class("testdev")()
        await self.pause(before)
        expected, image = before.snapshot(), before.config.image
        with carried(before) as data:
            after.take_over(data)
        assert (after.snapshot(), after.config.image) == (expected, image)
        was = bytes(self.ram)
        before.close()
        memory = LocalMemory(after.gate)
        self.ram = memory.add(RAM, RAM_SIZE)
        self.ram[:] = was
        self.device, self.client = after, reconnected(self.client, after, memory)
        for _ in range(self.chance.randrange(3)):
            await asyncio.sleep(0)
        after.resume()

    async def refused(self) -> None:
        """The next process would not have it."""
        device, other = self.device, load_class("edu")()
        await self.pause(device)
        with carried(device) as data, pytest.raises(CommandError):
            other.take_over(data)
        other.close()
        for _ in range(self.chance.randrange(3)):
            await asyncio.sleep(0)
        device.resume()

    async def pause(self, device: PciDevice) -> None:
        """Patiently, as an upgrade does, or at once: DMA that was cut short is begun anew."""
        await done(device.pause(at_once=self.chance.random() < 0.3))

    async def migrate(self) -> None:
        """Saved and loaded by several processes each."""
        await self.state(*STOPPED_FIRST[1:])
        stream, size = b"", self.chance.choice([65536, 1 << 18])
        while piece := migration(self.device).read(size):
            stream += piece
            if self.chance.random() < 0.1:
                await self.upgrade()
        self.collect()
        await self.state(S.STOP, S.RESUMING)
        for at in range(0, len(stream), size):
            feed(self.device, stream[at : at + size])
            if self.chance.random() < 0.1:
                await self.upgrade()
        await self.state(*START[1:])

    async def state(self, *states: S) -> None:
        """From where it stands."""
        for state in states:
            await go(self.device, self.device.migration_state, state)
            self.device.migration_state = state


@asynccontextmanager
async def guest(chance: random.Random) -> AsyncIterator[Replaced]:
    made = Replaced(chance)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("first", range(0, ROUNDS, AT_A_TIME))
async def test_testdev_is_handed_over_while_it_works_and_nothing_is_lost_or_doubled(first: int) -> None:
    """BAR2's counter, DMA jobs, doorbells, pending interrupts; 300 random interleavings, each with several."""
    for seed in range(first, first + AT_A_TIME):
        async with guest(random.Random(seed)) as one:
            await one_round(one)
            assert [one.client.taken(MSIX, vector) for vector in range(8)] == [0] * 8
