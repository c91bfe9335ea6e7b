"""What another process goes on with: all that a device is, the very files and eventfds that its client has."""

import asyncio
import mmap
import os

import pytest

from tests.device.handover.carrying import carried, done, reconnected, succeeded, taken
from tests.device.migration.models import Everything
from tests.device.migration.test_save_and_load import used
from vfuserver import (
    Bar,
    DmaError,
    Doorbell,
    KiB,
    LocalError,
    MsiX,
    PciDevice,
    PciIdentity,
    State,
    job,
    load_model,
)
from vfuserver.device import power_on
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import MigrationError, PciIrq
from vfuserver.vfio import MigrationState as S

RAM = 0x10_0000
MSIX = PciIrq.MSIX


class Framed(PciDevice):
    """Memory in files of both kinds, with an image from power-on and pending bits in one of them."""

    identity = PciIdentity(vendor=0x1234, device=0x0090)
    capabilities = (MsiX(vectors=4, table_bar=2),)
    frames = Bar(0, size=64 * KiB, backing=True)
    frame = frames.memory(0x0000, 0x8000, reset=b"power-on")
    edge = frames.memory(0x8000, 0x8000)
    tables = Bar(2, size=64 * KiB, backing=True, mappable=[(0x8000, 0x8000)])
    shared = tables.memory(0x8000, 0x8000)
    apart = Bar(4, size=16 * KiB, backing="windows", mappable=[(0x0000, 0x1000), (0x2000, 0x1000)])
    one = apart.memory(0x0000, 0x1000)
    two = apart.memory(0x2000, 0x1010)
    own = Bar(5, size=4 * KiB)
    inside = own.memory(0, 64)
    bell = own.counter(0x80)
    tail = own.rw(0x84)
    ring, shadowed = Doorbell(bell), Doorbell(tail, shadow=True)
    loaded: bytes = b""

    def on_load(self) -> None:
        """Sees what the client sees."""
        self.loaded = bytes(self.frame[:8])


class Worker(PciDevice):
    """A job that moves memory piece by piece."""

    identity = PciIdentity(vendor=0x1234, device=0x0091)
    done = State(0)
    failed = State(0)

    @job
    async def work(self, count: int) -> None:
        """From wherever `done` stands."""
        try:
            while self.done < count:
                await self.dma.write(RAM + self.done, b"x")
                self.done += 1
                await asyncio.sleep(0)
        except DmaError as error:
            self.failed = error.errno


async def test_everything_declared_is_the_same_afterwards() -> None:
    before, after = Everything(), Everything()
    used(before)
    before.gate.refused = 5
    before.alarm.start(after=60)
    before.work.start(3, label="x")
    await done(before.pause())
    expected, image = before.snapshot(), before.config.image
    taken(before, after)
    assert (after.snapshot(), after.config.image, after.gate.refused) == (expected, image, 5)
    assert after.seen == ("loaded",)
    after.close()


@pytest.mark.parametrize("name", ["edu", "testdev", "pvpanic", "gpio-idio-16", "idio-pair"])
async def test_every_model_goes_on_in_another_object(name: str) -> None:
    models = [power_on(load_model(name), {}) for _ in range(2)]
    for before, after in zip(*models, strict=True):
        await succeeded(before, after)
        assert after.migration_state is S.RUNNING
    for after in models[1]:
        after.close()


async def test_files_are_the_same_memory_and_were_not_written() -> None:
    """Also by whoever has mapped them, in every region."""
    before, after = Framed(), Framed()
    files = {one for region in before.regions for one in (region.fd, *(area.fd for area in region.areas)) if one >= 0}
    views = [mmap.mmap(fd, 0) for fd in sorted(files)]
    for at, view in enumerate(views):
        view[:] = bytes([at + 1]) * len(view)
    before.inside[:4] = b"mine"
    content = [view[:] for view in views]
    with LocalClient(before) as client:
        await done(before.pause())
        with carried(before) as data:
            after.take_over(data)
            assert [view[:] for view in views] == content
        assert after.loaded == content[0][:8]
        inodes = [{os.fstat(area.fd).st_ino for area in one.regions[4].areas} for one in (before, after)]
        assert inodes[0] == inodes[1]
        client.close()
    before.close()
    views[0][5] = 0xEE
    after.edge[0] = 0xDD
    assert (after.frame[5], views[0][0x8000]) == (0xEE, 0xDD)
    assert bytes(after.inside[:4]) == b"mine"
    after.resume()
    after.close()
    for view in views:
        view.close()


class Untidy(PciDevice):
    """Its job leaves something behind wherever it is ended."""

    identity = PciIdentity(vendor=0x1234, device=0x0094)
    frames = Bar(0, size=64 * KiB, backing=True)
    frame = frames.memory(0, 64 * KiB)

    @job
    async def work(self) -> None:
        """For ever."""
        try:
            await asyncio.Event().wait()
        finally:
            self.frame[0] += 1


async def test_job_that_ends_in_the_old_process_writes_no_live_memory() -> None:
    before, after = Untidy(), Untidy()
    before.work.start()
    await asyncio.sleep(0)
    await succeeded(before, after)
    assert after.frame[0] == 0
    await asyncio.sleep(0)
    after.work.cancel()
    assert after.frame[0] == 1
    after.close()


async def test_device_can_be_handed_on_and_on() -> None:
    one = Framed()
    view = mmap.mmap(one.regions[0].fd, 0)
    for number in range(5):
        other = Framed()
        one.frame[0] = number
        await succeeded(one, other)
        one = other
        assert (view[0], one.frame[0]) == (number, number)
    one.close()
    view.close()


async def test_pending_interrupts_are_sent_once_by_the_one_that_goes_on() -> None:
    """In a window that lies in the carried file, too: pending bits."""
    before, after = Framed(), Framed()
    client = LocalClient(before)
    before.attach(client)
    client.enable()
    client.arm(MSIX, 4)
    client.mask(MSIX, 2)
    before.interrupt(2)
    before.interrupt(1)
    await done(before.pause())
    before.interrupt(3)
    taken(before, after)
    client = reconnected(client, after)
    assert after.dump()["interrupts"]["pending"] == {"MSIX": 2}
    after.resume()
    assert [client.taken(MSIX, vector) for vector in range(4)] == [0, 1, 0, 1]
    client.unmask(MSIX, 2)
    client.unmask(MSIX, 2)
    assert client.taken(MSIX, 2) == 1
    assert after.dump()["interrupts"]["pending"] == {"MSIX": 0}
    client.close()
    after.close()


async def test_rings_of_the_client_reach_the_one_that_goes_on() -> None:
    """Before, during and after: the client's kernel knows one eventfd, and one file of the shadow."""
    before, after = Framed(), Framed()
    client = LocalClient(before)
    before.attach(client)
    client.enable()
    bell, tail = before.regions[5].io_events
    (ring,), (shadow_ring, shadow) = map(os.dup, bell.open()), map(os.dup, tail.open())
    value = mmap.mmap(shadow, 0)
    os.eventfd_write(ring, 2)
    bell.rung()
    await done(before.pause())
    os.eventfd_write(ring, 3)
    value[:4] = (77).to_bytes(4, "little")
    os.eventfd_write(shadow_ring, 1)
    with carried(before) as data:
        os.eventfd_write(ring, 4)
        after.take_over(data)
    before.close()
    client = reconnected(client, after)
    after.resume()
    for event in after.regions[5].io_events:
        event.rung()
    assert (client.read(5, 0x80), client.read(5, 0x84)) == (9, 77)
    os.eventfd_write(ring, 1)
    after.regions[5].io_events[0].rung()
    assert client.read(5, 0x80) == 10
    client.close()
    after.close()
    value.close()
    for fd in (ring, shadow_ring, shadow):
        os.close(fd)


async def test_time_between_does_not_count_for_timers() -> None:
    before, after = Everything(), Everything()
    before.alarm.start(after=0.04)
    await done(before.pause())
    left = before.alarm.left()
    await asyncio.sleep(0.05)
    taken(before, after)
    await asyncio.sleep(0.01)
    assert (after.number, after.alarm.left()) == (1, left)
    after.resume()
    while after.alarm.armed:
        await asyncio.sleep(0.005)
    assert after.number == 2
    after.close()


async def test_job_begins_anew_and_does_nothing_twice() -> None:
    before, after = Worker(), Worker()
    client = LocalClient(before)
    before.attach(client)
    client.enable()
    ram = client.memory.add(RAM, 0x1000)
    before.work.start(40)
    while before.done < 10:
        await asyncio.sleep(0)
    await done(before.pause())
    was, moved = before.done, bytes(ram[:])
    taken(before, after)
    client = reconnected(client, after)
    ram = client.memory.add(RAM, 0x1000)
    ram[:] = moved
    after.resume()
    while after.work.running:
        await asyncio.sleep(0)
    assert (was < 40, after.done, after.failed, ram[:41]) == (True, 40, 0, b"x" * 40 + b"\0")
    client.close()
    after.close()


async def test_on_load_that_fails_leaves_the_new_one_in_error_and_the_old_one_as_it_was() -> None:
    """As a load does (S3.7)."""
    before, after = Everything(), Everything()
    before.text = "cannot"
    await done(before.pause())
    with carried(before) as data, pytest.raises(MigrationError, match="on_load"):
        after.take_over(data)
    assert after.migration_state is S.ERROR
    after.close()
    before.resume()
    with LocalClient(before) as client:
        client.enable()
        client.write(0, 0, 9)
        assert client.read(0, 0) == 9
    before.close()


async def test_device_that_is_not_paused_or_not_new_is_a_mistake() -> None:
    before, after, third = Framed(), Framed(), Framed()
    with pytest.raises(LocalError, match=r"pause\(\) it first"):
        before.hand_over()
    await done(before.pause())
    with carried(before) as data:
        after.take_over(data)
        with pytest.raises(LocalError, match="once"):
            after.take_over(data)
        with LocalClient(third), pytest.raises(LocalError, match="before a client"):
            third.take_over(data)
    for device in (before, after, third):
        device.close()
