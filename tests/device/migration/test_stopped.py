"""Stopped means stopped, quiet means quiet: what the device does and does not do in each state (S3.9, S3.10)."""

import asyncio
import errno
import hashlib
import random
from collections.abc import Iterator

import pytest

from tests.device.migration.models import Everything
from tests.device.migration.moving import START, S, go, has_precopy, load, migration, read_all, save
from vfuserver import (
    Bar,
    CommandError,
    DmaError,
    Intx,
    LocalError,
    Msi,
    PciDevice,
    PciIdentity,
    ResetReason,
    State,
    job,
)
from vfuserver import load as load_class
from vfuserver.testing.local_client import LocalClient, LocalMemory
from vfuserver.vfio import Later, PciIrq

RAM = 0x10_0000


class Held:
    """A message port whose answers come when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.written: list[int] = []

    async def read(self, iova: int, length: int) -> bytes:
        await self._answer()
        return bytes([iova & 0xFF]) * length

    async def write(self, iova: int, data: memoryview) -> None:
        await self._answer()
        self.written.append(iova)

    async def _answer(self) -> None:
        self.waiting.append(asyncio.get_running_loop().create_future())
        await self.waiting[-1]

    def answer(self) -> None:
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one.set_result(None)


class Messenger(PciDevice):
    """Moves memory that only messages reach."""

    identity = PciIdentity(vendor=0x1234, device=0x0080)
    capabilities = (Msi(vectors=2),)
    intx = Intx()
    mmio = Bar(0, size=64)
    kick = mmio.wo(0x00)
    ring = mmio.counter(0x04)
    slow = mmio.rw(0x08)
    done = State(0)
    failed = State(0)

    @kick.on_write
    def start(self, count: int) -> None:
        """Starts the job."""
        self.work.start(count)

    @slow.on_read
    async def read_slowly(self) -> int:
        """Answers later."""
        await asyncio.sleep(0.01)
        return 1

    @job
    async def work(self, count: int) -> None:
        """From wherever `done` stands."""
        try:
            while self.done < count:
                await self.dma.write(RAM + 16 * self.done, b"x" * 16)
                self.done += 1
        except DmaError as error:
            self.failed = error.errno
        self.interrupt(1)


@pytest.fixture
def device() -> Iterator[Messenger]:
    made = Messenger()
    yield made
    made.close()


@pytest.fixture
def port() -> Held:
    return Held()


@pytest.fixture
def client(device: Messenger, port: Held) -> Iterator[LocalClient]:
    made = LocalClient(device)
    made.memory = LocalMemory(device.gate, port)
    made.memory.ioas.map(RAM, 0x1000, 3)
    with made:
        made.enable()
        made.arm(PciIrq.MSI, 2)
        yield made


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_arc_waits_for_dma_that_is_under_way_and_no_more_begins(
    device: Messenger, client: LocalClient, port: Held
) -> None:
    """S3.10, S3.6: the transfer that was begun ends, the next one waits and is not refused."""
    client.write(0, 0, 3)
    await turns()
    later = migration(device).arc(S.RUNNING, S.RUNNING_P2P)
    assert isinstance(later, Later)
    await turns()
    assert (later.done, len(port.waiting)) == (False, 1)
    port.answer()
    while not later.done:
        await asyncio.sleep(0.001)
    assert (device.done, port.written, port.waiting) == (1, [RAM], [])
    await go(device, S.RUNNING_P2P, S.STOP, S.STOP_COPY)
    await turns(20)
    assert (device.done, port.waiting, device.failed) == (1, [], 0)
    await go(device, S.STOP_COPY, S.STOP, S.RUNNING_P2P, S.RUNNING)
    while device.work.running:
        await turns()
        port.answer()
    assert (device.done, port.written, device.failed) == (3, [RAM, RAM + 16, RAM + 32], 0)
    assert client.taken(PciIrq.MSI, 1) == 1


async def test_arc_that_nobody_waits_for_any_more_leaves_the_device_running(
    device: Messenger, client: LocalClient, port: Held
) -> None:
    """S3.7: the deadline of a command, with a client that does not answer."""
    client.write(0, 0, 2)
    await turns()
    later = migration(device).arc(S.RUNNING, S.RUNNING_P2P)
    assert later is not None
    later.cancel()
    while device.work.running:
        await turns()
        port.answer()
    assert (device.done, client.taken(PciIrq.MSI, 1)) == (2, 1)


async def test_access_that_waits_for_its_answer_is_ebusy(device: Messenger, client: LocalClient) -> None:
    """S3.7: its coroutine is no state."""
    with pytest.raises(LocalError, match="asynchronous"):
        client.read(0, 8)
    later = device.activity.answer(device.read_slowly(), "BAR0+0x8 (slow)")
    with pytest.raises(CommandError, match=r"slow.* must be answered first") as raised:
        migration(device).arc(S.RUNNING, S.RUNNING_P2P)
    assert raised.value.errno == errno.EBUSY
    while not later.done:
        await asyncio.sleep(0.001)
    await go(device, S.RUNNING, S.RUNNING_P2P)


async def test_quiet_device_answers_an_asynchronous_access_whose_dma_is_refused(
    device: Messenger, client: LocalClient
) -> None:
    """S3.10: it is accepted, and need not wait for its deadline; to stop, the device must have answered."""
    await go(device, S.RUNNING, S.RUNNING_P2P)
    later = device.activity.answer(device.read_slowly(), "BAR0+0x8 (slow)")
    with pytest.raises(CommandError, match=r"slow.* must be answered first"):
        migration(device).arc(S.RUNNING_P2P, S.STOP)
    answers: list[object] = []
    later.when_done(answers.append)
    async with asyncio.timeout(1):
        while not later.done:
            await asyncio.sleep(0.001)
    assert answers == [1]
    device.activity.answer(device.dma.read(RAM, 4), "BAR0+0x8 (slow)").when_done(answers.append)
    await turns()
    assert isinstance(answers[1], DmaError)
    assert answers[1].errno == errno.EBUSY
    await go(device, S.RUNNING_P2P, S.STOP)


async def test_quiet_device_answers_but_nothing_leaves_it(device: Messenger, client: LocalClient) -> None:
    """S3.10: registers take effect, jobs wait, interrupts become pending, DMA is refused."""
    await go(device, S.RUNNING, S.RUNNING_P2P)
    client.write(0, 4, 1)
    client.write(0, 0, 0)
    await turns(20)
    assert (client.read(0, 4), device.work.running) == (1, True)
    device.interrupt(0)
    assert client.taken(PciIrq.MSI, 0) == 0
    with pytest.raises(DmaError, match="stopped"):
        device.dma.read_now(RAM, 4)
    await go(device, S.RUNNING_P2P, S.RUNNING)
    await turns(20)
    assert (device.work.running, client.taken(PciIrq.MSI, 0), client.taken(PciIrq.MSI, 1)) == (False, 1, 1)


async def test_stopped_device_takes_configuration_interrupts_and_reset_but_no_register(
    device: Messenger, client: LocalClient
) -> None:
    """S3.9."""
    await go(device, S.RUNNING, S.RUNNING_P2P, S.STOP)
    client.write(0, 4, 1)
    assert (client.read(0, 4), device.gate.refused) == (0, 1)
    client.write_config(0x3C, b"\x0b")
    client.memory.ioas.unmap(RAM, 0x1000)
    client.arm(PciIrq.MSI, 1)
    assert client.read_config(0x3C, 1) == b"\x0b"
    device.reset(ResetReason.MESSAGE)
    client.enable()
    client.write(0, 4, 1)
    assert client.read(0, 4) == 1


@pytest.mark.parametrize("state", list(S)[1:])
async def test_reset_runs_the_device_whatever_state_it_is_in(state: S) -> None:
    """S3.6: and a session is over."""
    device = Everything()
    ways = {
        S.STOP: (S.RUNNING_P2P, S.STOP),
        S.RUNNING: (),
        S.STOP_COPY: (S.RUNNING_P2P, S.STOP, S.STOP_COPY),
        S.RESUMING: (S.RUNNING_P2P, S.STOP, S.RESUMING),
        S.RUNNING_P2P: (S.RUNNING_P2P,),
        S.PRE_COPY: (S.PRE_COPY,),
        S.PRE_COPY_P2P: (S.PRE_COPY, S.PRE_COPY_P2P),
    }
    await go(device, S.RUNNING, *ways[state])
    device.reset(ResetReason.MESSAGE)
    with pytest.raises(CommandError):
        migration(device).read(1)
    with pytest.raises(CommandError):
        migration(device).write(b"")
    with LocalClient(device) as client:
        client.enable()
        client.write(0, 0, 9)
        assert client.read(0, 0) == 9
    device.close()


async def test_registers_hammered_while_the_stream_is_read_change_nothing() -> None:
    """S3.9: writes are dropped and counted, reads have no side effect, undeclared accesses do not count."""
    device, quiet = load_class("testdev")(), load_class("testdev")()
    expected = hashlib.sha256(await save(quiet)).digest()
    with LocalClient(device):
        await go(device, S.RUNNING, S.RUNNING_P2P, S.STOP, S.STOP_COPY)
        stream, chance = hashlib.sha256(), random.Random(1)
        device.gate.set(7)  # as with BARs enabled, but COMMAND is part of the stream
        while piece := migration(device).read(4096):
            stream.update(piece)
            for index in (0, 1, 2, 4, 5):
                table = device.regions[index].table
                assert table is not None
                offset = 4 * chance.randrange(device.regions[index].size // 4)
                table.write(offset, b"\xa5" * 4)
                table.read(offset, 4)
        assert stream.digest() == expected
        assert device.gate.refused > 0
    device.close()
    quiet.close()


async def test_timers_stand_still() -> None:
    """S3.9: what is left of a timer's time is saved, and counts from RUNNING on."""
    one, other = Everything(), Everything()
    one.alarm.start(after=0.05)
    data = await save(one)
    left = one.alarm.left()
    await load(other, data)
    await asyncio.sleep(0.06)
    assert (one.number, other.number, other.alarm.left(), one.alarm.left()) == (1, 1, left, left)
    await go(other, *START[1:])
    while other.alarm.armed:
        await asyncio.sleep(0.005)
    assert (one.number, other.number) == (1, 2)
    one.close()
    other.close()


async def test_sizes_are_told_in_every_state() -> None:
    """S3.13, S3.12: an estimate before, exact while the stream is read, and nothing after its end."""
    device = load_class("testdev")()
    assert has_precopy(device)
    estimate = migration(device).left()
    await go(device, S.RUNNING, S.RUNNING_P2P, S.STOP, S.STOP_COPY)
    assert 1 << 20 < migration(device).left() <= estimate + 4096
    size = len(read_all(device, 1 << 16))
    assert (1 << 20 < size <= estimate + 4096, migration(device).left(), migration(device).read(9)) == (True, 0, b"")
    device.close()
