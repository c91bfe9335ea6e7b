"""Devices beside each other: none is stopped while another moves memory, and nobody waits for ever (S3.10, S3.25)."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import pytest

from tests.device.migration.moving import S, feed, go, migration, read_all
from vfuserver import Bar, Card, Function, KiB, PciDevice, PciIdentity, ResetReason, State, job
from vfuserver import load as load_class
from vfuserver._core import PROT_READ, PROT_WRITE
from vfuserver.device import neighbours
from vfuserver.iommu import MessagePort
from vfuserver.testing.local_client import LocalClient, LocalMemory
from vfuserver.vfio import Later, PciIrq

PEER, RAM = 0x4000_0000, 0x10_0000
PLACE, LENGTH = 0x8_2000, 0x7_E000
"""In BAR 2 of testdev: two pieces of its engine."""
COPY_AND_RAISE, BUSY, DONE = 0x101, 1, 2
ROUNDS, AT_A_TIME = 200, 100
AWARE = (S.RUNNING_P2P, S.STOP)
BALL = 8
"""Bytes."""


class Player(PciDevice):
    """Plays a ball to the other one's court whenever it is in its own, one higher each time."""

    identity = PciIdentity(vendor=0x1234, device=0x0081)
    masters_always = True
    decodes_always = True
    mmio = Bar(0, size=16)
    play = mmio.wo(0x00)
    court = Bar(2, size=4 * KiB, backing=True)
    ground = court.memory(0, 4 * KiB)
    played = State(0, doc="the highest ball that was played")

    @play.on_write
    def start(self, _value: int) -> None:
        """Now."""
        self.game.start()

    @property
    def ball(self) -> int:
        """The highest that came."""
        return int.from_bytes(self.ground[:BALL], "little")

    @property
    def has_it(self) -> bool:
        """The ball is here."""
        return self.ball > self.played

    @job
    async def game(self) -> None:
        """For ever."""
        while True:
            if self.has_it:
                ball = self.ball
                await self.dma.write(PEER, (ball + 1).to_bytes(BALL, "little"))
                self.played = ball
            await asyncio.sleep(0)


class Relay:
    """A client that turns DMA messages into region accesses of the other device, some time later."""

    def __init__(self, other: PciDevice, chance: random.Random) -> None:
        self.other, self.chance = other, chance

    async def read(self, iova: int, length: int) -> bytes:
        await turns(self.chance.randrange(4))
        table = self.other.regions[2].table
        assert table is not None
        data = table.read(iova - PEER, length)
        assert isinstance(data, bytes)
        return data

    async def write(self, iova: int, data: memoryview) -> None:
        content = bytes(data)
        await turns(self.chance.randrange(4))
        table = self.other.regions[2].table
        assert table is not None
        table.write(iova - PEER, content)


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


Port = Callable[[PciDevice], MessagePort | None]
"""Who answers for the BAR of that device; nobody: it is mapped."""


def mapped(_: PciDevice) -> None:
    """By its descriptor."""


def relayed(chance: random.Random) -> Port:
    """By messages."""
    return lambda device: Relay(device, chance)


WAYS = {"mapping": lambda _: mapped, "messages": relayed}


@contextmanager
def pair(devices: Sequence[PciDevice], port: Port) -> Iterator[list[LocalClient]]:
    """One server's two devices and the client of each, which gives it the other's BAR 2."""
    clients = [LocalClient(one) for one in devices]
    for one, client, other in zip(devices, clients, devices[::-1], strict=True):
        one.beside = devices
        region = other.regions[2]
        if answers := port(other):
            client.memory = LocalMemory(one.gate, answers)
            client.memory.ioas.map(PEER, region.size, PROT_READ | PROT_WRITE)
        else:
            client.memory.ioas.map(PEER, region.size, PROT_READ | PROT_WRITE, region.fd)
    with ExitStack() as stack:
        for one in devices:
            stack.callback(one.close)
        for client in clients:
            stack.enter_context(client)
            client.enable()
        yield clients


async def step(device: PciDevice, *states: S) -> None:
    """Arc after arc, from wherever it stands."""
    await go(device, device.migration_state, *states)
    device.migration_state = states[-1]


async def stop_all(devices: Sequence[PciDevice], chance: random.Random) -> None:
    """As a client does that knows the P2P states, or as one does that does not; in any order."""
    aware = chance.random() < 0.5
    for states in ((S.RUNNING_P2P,), (S.STOP,)) if aware else ((S.RUNNING_P2P, S.STOP),):
        for one in chance.sample(devices, len(devices)):
            await step(one, *states)
            await turns(chance.randrange(6))


async def run_all(devices: Sequence[PciDevice], chance: random.Random) -> None:
    """Likewise."""
    aware = chance.random() < 0.5
    for states in ((S.RUNNING_P2P,), (S.RUNNING,)) if aware else ((S.RUNNING_P2P, S.RUNNING),):
        for one in chance.sample(devices, len(devices)):
            await step(one, *states)
            await turns(chance.randrange(6))


async def carry(source: PciDevice, target: PciDevice, chance: random.Random) -> None:
    """A stopped device's state into one that is stopped, too."""
    await step(source, S.STOP_COPY)
    stream = read_all(source)
    await turns(chance.randrange(6))
    await step(target, S.RESUMING)
    feed(target, stream)
    await step(target, S.STOP)


async def move(before: Sequence[PciDevice], after: Sequence[PciDevice], chance: random.Random) -> None:
    """Both stop before either is saved, or one is saved before the other stops."""
    await stop_all(after, chance)
    together = chance.random() < 0.5
    if together:
        await stop_all(before, chance)
    for one, other in chance.sample([*zip(before, after, strict=True)], 2):
        if not together:
            await step(one, S.RUNNING_P2P, S.STOP)
        await carry(one, other, chance)


def is_fair(players: Sequence[Player]) -> bool:
    """One of the two has the ball, and the other has played it there."""
    balls = sorted(one.ball for one in players)
    return sum(one.has_it for one in players) == 1 and balls[1] == balls[0] + 1


by_each_way = pytest.mark.parametrize("by", ["mapping", "messages"])


@by_each_way
@pytest.mark.parametrize("first", range(0, ROUNDS, AT_A_TIME))
async def test_a_ball_between_two_devices_that_move_is_never_lost_nor_doubled(first: int, by: str) -> None:
    """S3.10: what is saved of both fits together, whether the client knows the P2P states, stops one after the other,
    or takes all of the one before it stops the other."""
    for seed in range(first, first + AT_A_TIME):
        chance = random.Random(seed)
        port = WAYS[by](chance)
        before, after = (Player(), Player()), (Player(), Player())
        with pair(before, port) as clients, pair(after, port):
            before[0].ground[:BALL] = (1).to_bytes(BALL, "little")
            for client in clients:
                client.write(0, 0, 1)
            await turns(chance.randrange(1, 40))
            await move(before, after, chance)
            assert is_fair(before), seed
            held = max(one.ball for one in before)
            assert (is_fair(after), max(one.ball for one in after)) == (True, held), seed
            await run_all(after, chance)
            async with asyncio.timeout(5):
                while max(one.ball for one in after) < held + 4:
                    await asyncio.sleep(0)
            await stop_all(after, chance)
            assert is_fair(after), seed


@by_each_way
async def test_testdevs_that_copy_into_each_other_move_and_every_byte_arrives_once(by: str) -> None:
    """S3.10, S3.16: with one interrupt for each copy, at either side of the move."""
    for seed in range(60):
        chance = random.Random(seed)
        port = WAYS[by](chance)
        kind = load_class("testdev")
        before, after = (kind(), kind()), (kind(), kind())
        content = [chance.randbytes(LENGTH) for _ in before]
        with pair(before, port) as old, pair(after, port) as new:
            for clients in (old, new):
                for client, data in zip(clients, content, strict=True):
                    client.memory.add(RAM, 0x8_0000)[:LENGTH] = data
                    client.arm(PciIrq.MSIX, 2)
            for client in old:
                client.write(0, 0x20, RAM, 8)
                client.write(0, 0x28, PEER + PLACE, 8)
                client.write(0, 0x30, LENGTH)
                client.write(0, 0x34, COPY_AND_RAISE)
                await turns(chance.randrange(4))
            await turns(chance.randrange(12))
            await move(before, after, chance)
            await run_all(after, chance)
            async with asyncio.timeout(5):
                while any(client.read(0, 0x38) == BUSY for client in new):
                    await asyncio.sleep(0)
            assert [client.read(0, 0x38) for client in new] == [DONE, DONE], seed
            for one, data in zip(after, content[::-1], strict=True):
                assert one.bars[2].windows[0][PLACE:][:LENGTH] == data, seed
            raised = [sum(one.taken(PciIrq.MSIX, 1) for one in both) for both in zip(old, new, strict=True)]
            assert raised == [1, 1], seed


# -- how long


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the seconds that a server has."""
    monkeypatch.setattr(neighbours, "HOLD", 0.05)
    monkeypatch.setattr(neighbours, "PATIENCE", 0.05)


@pytest.fixture
async def players(brief: None) -> AsyncIterator[tuple[tuple[Player, Player], list[LocalClient]]]:
    """Two that play, by a mapping."""
    both = Player(), Player()
    with pair(both, mapped) as clients:
        both[0].ground[:BALL] = (1).to_bytes(BALL, "little")
        for client in clients:
            client.write(0, 0, 1)
        await turns()
        yield both, clients


async def plays(one: Player, seconds: float) -> bool:
    """Whether it plays a ball that it is given, within some time."""
    before = one.played
    one.ground[:BALL] = (one.ball + 100).to_bytes(BALL, "little")
    end = asyncio.get_running_loop().time() + seconds
    while one.played == before and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.001)
    return one.played > before


async def test_who_waits_for_a_stopped_device_goes_on_in_the_end(
    players: tuple[tuple[Player, Player], list[LocalClient]], caplog: pytest.LogCaptureFixture
) -> None:
    """S3.10, S3.25: a client that stops one device for ever does not stop the others."""
    (one, other), _ = players
    caplog.set_level(logging.INFO)
    await step(one, S.RUNNING_P2P, S.STOP, S.STOP_COPY)
    assert not await plays(other, 0.02)
    assert len(read_all(one)) > 1000
    assert await plays(other, 1)
    assert "player goes on, though stopped are: player" in caplog.text
    await step(one, S.STOP)
    await step(one, S.RUNNING_P2P)
    assert await plays(other, 0.02)


@pytest.mark.parametrize("end", ["runs", "is quiet", "is reset", "loses its client", "closes"])
async def test_who_waits_goes_on_at_once_when_nobody_is_stopped(
    players: tuple[tuple[Player, Player], list[LocalClient]], monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Whatever ended it."""
    monkeypatch.setattr(neighbours, "HOLD", 10)
    (one, other), clients = players
    await step(one, S.RUNNING_P2P, S.STOP)
    assert not await plays(other, 0.02)
    if end in ("runs", "is quiet"):
        await step(one, S.RUNNING_P2P, *((S.RUNNING,) if end == "runs" else ()))
    elif end == "is reset":
        one.reset(ResetReason.MESSAGE)
    elif end == "loses its client":
        clients[0].close()
    else:
        one.close()
    assert await plays(other, 1)


async def test_who_runs_first_waits_for_the_others(
    players: tuple[tuple[Player, Player], list[LocalClient]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is with clients that do not know the P2P states."""
    monkeypatch.setattr(neighbours, "HOLD", 10)
    (one, other), _ = players
    for device in (one, other):
        await step(device, S.RUNNING_P2P, S.STOP)
    await step(one, S.RUNNING_P2P, S.RUNNING)
    assert not await plays(one, 0.02)
    assert not one.gate.word & one.gate.QUIET
    await step(other, S.RUNNING_P2P, S.RUNNING)
    assert await plays(one, 1)


@pytest.mark.parametrize(("pids", "waits"), [((1, 2), False), ((1, 1), True), ((1, None), True), ((None, None), True)])
async def test_devices_of_another_client_do_not_wait(
    players: tuple[tuple[Player, Player], list[LocalClient]],
    monkeypatch: pytest.MonkeyPatch,
    pids: tuple[int | None, int | None],
    waits: bool,
) -> None:
    """Two machines on one server; a client in another pid namespace may be any."""
    monkeypatch.setattr(neighbours, "HOLD", 10)
    (one, other), clients = players
    for client, pid in zip(clients, pids, strict=True):
        client.peer_pid = pid
    await step(one, S.RUNNING_P2P, S.STOP)
    assert await plays(other, 0.02) is not waits


async def test_functions_of_a_card_wait_whoever_their_clients_are(brief: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they share is not only memory."""

    class Counting(PciDevice, abstract=True):
        count = State(0)

        @job
        async def work(self) -> None:
            while True:
                self.count += 1
                await asyncio.sleep(0)

    class Left(Counting):
        identity = PciIdentity(vendor=0x1234, device=0x0082)

    class Both(Card):
        left, right = Function(Left), Function(Left)

    monkeypatch.setattr(neighbours, "HOLD", 10)
    card = Both()
    card.right.work.start()
    await turns()
    await step(card.left, S.RUNNING_P2P, S.STOP)
    before = card.right.count
    await turns(20)
    assert card.right.count == before > 0
    await step(card.left, S.RUNNING_P2P, S.RUNNING)
    await turns()
    assert card.right.count > before
    card.close()


class Silent:
    """Never answers."""

    async def read(self, iova: int, length: int) -> bytes:
        await asyncio.Event().wait()
        return b""

    async def write(self, iova: int, data: memoryview) -> None:
        await asyncio.Event().wait()


@pytest.fixture
async def stuck(brief: None) -> AsyncIterator[tuple[Player, Player]]:
    """The second one's DMA is never answered."""
    one, other = Player(), Player()
    with pair((one, other), lambda device: Silent() if device is one else None) as clients:
        other.ground[0] = 1
        clients[1].write(0, 0, 1)
        await turns()
        assert other.dma.outstanding == 1
        yield one, other
        other.game.cancel()
        await turns()


async def test_a_device_stops_though_the_dma_of_another_does_not_end(
    stuck: tuple[Player, Player], caplog: pytest.LogCaptureFixture
) -> None:
    """S3.25: it does not depend on it."""
    one, _ = stuck
    await step(one, S.RUNNING_P2P)
    later = migration(one).arc(S.RUNNING_P2P, S.STOP)
    assert isinstance(later, Later)
    async with asyncio.timeout(1):
        while not later.done:
            await asyncio.sleep(0.001)
    assert "player stops though the DMA of player has not ended" in caplog.text
    one.migration_state = S.STOP
    await step(one, S.STOP_COPY)
    assert len(read_all(one)) > 1000


def held(device: PciDevice) -> bool:
    """Its jobs wait."""
    return device.activity.brake.on


async def test_an_arc_that_is_given_up_lets_the_others_go_on(
    stuck: tuple[Player, Player], monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3.7: at the deadline, or when the client goes."""
    one, other = stuck
    monkeypatch.setattr(neighbours, "PATIENCE", 10)
    monkeypatch.setattr(neighbours, "HOLD", 10)
    await step(one, S.RUNNING_P2P)
    later = migration(one).arc(S.RUNNING_P2P, S.STOP)
    assert later is not None
    await turns()
    assert held(other)
    later.cancel()
    await turns()
    assert not held(other)
    await step(one, S.RUNNING)
