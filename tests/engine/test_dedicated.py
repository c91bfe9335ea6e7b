"""A device that is served by a thread of its own, on loops of both kinds; its clients are on the test's."""

import asyncio
import errno
import functools
import os
import random
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.device.migration.test_neighbours import BALL, PEER, Player, is_fair
from tests.engine.conftest import raw
from tests.engine.test_dma_modes import DONE, dma
from tests.native.messages import message
from vfuserver import Bar, Card, Doorbell, Function, PciDevice, PciIdentity, State, job, timer
from vfuserver.client import Client, GuestMemory
from vfuserver.client.errors import DisconnectedError
from vfuserver.device.loader import load
from vfuserver.device.neighbours import HOLD
from vfuserver.engine import Server, adopt, find_engine, find_home, listen
from vfuserver.engine.device_thread import DeviceThread
from vfuserver.engine.listen import Listener
from vfuserver.errors import CommandError, LocalError
from vfuserver.session import SessionOptions
from vfuserver.vfio import Client as Port
from vfuserver.vfio import MigrationState

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

DEDICATED = SessionOptions(poll="dedicated")
READ, START, SLOW, DELAY, FAIL, STUCK, LEAVE, RUNG = range(0, 32, 4)
IOVA = 0x10000
FOREVER = 10.0
"""Seconds after which something that should have happened will not."""


class Watched(PciDevice):
    """Notes the thread that runs each piece of its Python."""

    identity = PciIdentity(vendor=0x1234, device=0x00D1)
    decodes_always = True
    masters_always = True
    registers = Bar(0, size=4096)
    read = registers.ro(READ)
    start = registers.wo(START)
    slow = registers.ro(SLOW)
    delay = registers.rw(DELAY)
    fail = registers.ro(FAIL)
    stuck = registers.wo(STUCK)
    leave = registers.wo(LEAVE)
    rung = registers.wo(RUNG)
    bell = Doorbell(rung, match=1)
    ticks = State(0)
    threads: dict[str, int]

    def note(self, what: str) -> None:
        """Now."""
        vars(self).setdefault("threads", {})[f"{what} {threading.get_ident()}"] = threading.get_ident()

    def on_reset(self) -> None:
        """Also at power-on."""
        self.note("on_reset")

    def attach(self, client: Port) -> None:
        """A client comes."""
        self.note("attach")
        super().attach(client)

    def detach(self) -> None:
        """It goes."""
        self.note("detach")
        super().detach()

    def close(self) -> None:
        """The end."""
        self.note("close")
        super().close()

    def dump(self) -> dict[str, Any]:
        """Somebody looks."""
        self.note("dump")
        return super().dump()

    @read.on_read
    def reads(self) -> int:
        """A hook."""
        self.note("hook")
        return self.ticks

    @slow.on_read
    async def reads_slowly(self) -> int:
        """A Later."""
        await asyncio.sleep(0.002)
        self.note("later")
        return 5

    @fail.on_read
    def fails(self) -> int:
        """Always."""
        raise ValueError("a hook that fails")

    @stuck.on_write
    def sticks(self, milliseconds: int) -> None:
        """A hook that takes long."""
        time.sleep(milliseconds / 1000)

    @leave.on_write
    def leaves(self, _: int) -> None:
        """Starts a job that ends the process."""
        self.exits.start()

    @start.on_write
    def starts(self, _: int) -> None:
        """Sets a job and a timer going."""
        self.work.start()
        self.tick.start(0.001)

    @rung.on_write
    def rings(self, _: int) -> None:
        """A doorbell."""
        self.note("doorbell")

    @job
    async def work(self) -> None:
        """DMA, a step later."""
        await asyncio.sleep(0)
        self.note("job")
        await self.dma.write(IOVA, b"done")

    @job
    async def exits(self) -> None:
        """As a model that should not."""
        raise SystemExit(3)

    @timer
    def tick(self) -> None:
        """A timer."""
        self.note("timer")
        self.ticks += 1


@dataclass
class House:
    """A server whose devices have threads of their own unless told otherwise."""

    server: Server
    folder: Path
    threads: list[DeviceThread] = field(default_factory=list)

    def add(self, make: Callable[[], PciDevice], options: SessionOptions = DEDICATED) -> tuple[PciDevice, Path]:
        """Makes a device where it will live, and serves it."""
        home = find_home(find_engine("vfuserver"), options.poll, f"thread-{len(self.threads)}")
        path = self.folder / str(len(os.listdir(self.folder)))
        device = home.call_patiently(make)
        self.server.add(device, listen(path), options, home.serve)
        if isinstance(home, DeviceThread):
            self.threads.append(home)
        return device, path

    async def dump(self) -> list[dict[str, Any]]:
        """What inspect shows of every device."""
        return [await one.dump() for one in self.server.served]


@pytest.fixture
async def house(folder: Path) -> AsyncIterator[House]:
    async with Server() as server:
        yield House(server, folder)


async def eventually(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(FOREVER):
        while not check():
            await asyncio.sleep(0.001)


async def number(client: Client, at: int) -> int:
    return int.from_bytes(await client.region_read(0, at, 4), "little")


async def test_a_models_python_sees_one_thread_from_power_on_to_close(folder: Path) -> None:
    """Hooks, a Later, jobs with DMA, timers, doorbells, resets, clients that come and go, inspect, the end."""
    async with Server() as server:
        house = House(server, folder)
        device, path = house.add(Watched)
        for _ in range(2):
            async with await Client.connect(path) as client:
                memory = client.own(GuestMemory(4096))
                await client.dma_map(IOVA, memory)
                await client.region_write(0, START, b"\1\0\0\0")
                (bell,) = (await client.region_io_fds(0)).sub_regions
                assert bell.ring(1)
                assert await number(client, SLOW) == 5
                async with asyncio.timeout(FOREVER):
                    while not await number(client, READ):
                        await asyncio.sleep(0.001)
                assert memory.read(0, 4) == b"done"
                await house.dump()
                await client.reset()
    assert isinstance(device, Watched)
    seen = {key.split()[0] for key in device.threads}
    assert seen == {"on_reset", "attach", "detach", "close", "dump", "hook", "later", "doorbell", "job", "timer"}
    assert len(set(device.threads.values())) == 1
    assert threading.get_ident() not in device.threads.values()


async def test_what_goes_on_by_itself_goes_on_while_the_thread_polls_for_a_silent_client(house: House) -> None:
    device, path = house.add(Watched)
    assert isinstance(device, Watched)
    async with await Client.connect(path) as client:
        await client.dma_map(IOVA, client.own(GuestMemory(4096)))
        await client.region_write(0, START, b"\1\0\0\0")
        await eventually(lambda: any(key.startswith("job") for key in device.threads))
        await eventually(lambda: device.ticks == 1)


async def test_inspect_is_answered_while_the_thread_polls_and_shows_the_mode(house: House) -> None:
    """S4.26."""
    _, path = house.add(load("testdev"))
    async with await Client.connect(path) as client:
        await client.enable()
        for _ in range(50):
            await client.region_read(0, 0, 4)
            (found,) = await house.dump()
        polling = found["connection"]["polling"]
        assert (polling["mode"], polling["limit_us"]) == ("dedicated", 500)
        assert polling["spins"] > polling["hits"] > 0
        assert polling["seconds"] > 0


async def test_without_a_client_the_thread_sleeps(house: House) -> None:
    _, path = house.add(load("testdev"))
    async with await Client.connect(path) as client:
        await client.enable()
    (task,) = (one.native_id for one in threading.enumerate() if one.name == "thread-0")
    await asyncio.sleep(0.1)  # it takes leave of its client

    def used() -> int:
        return int(Path(f"/proc/self/task/{task}/schedstat").read_text().split()[0])

    before = used()
    await asyncio.sleep(0.2)
    assert used() == before


async def test_an_exception_in_a_hook_is_answered_and_the_next_access_served(house: House) -> None:
    _, path = house.add(Watched)
    async with await Client.connect(path) as client:
        for _ in range(3):
            with pytest.raises(CommandError) as refused:
                await client.region_read(0, FAIL, 4)
            assert refused.value.errno == errno.EIO
            assert await number(client, READ) == 0


async def test_second_client_is_refused_and_an_immediate_reconnect_served(house: House) -> None:
    _, path = house.add(load("testdev"))
    for _ in range(50):
        async with await Client.connect(path) as client:
            await client.enable()
            with pytest.raises(DisconnectedError):
                await Client.connect(path)
            assert await client.region_read(0, 0, 4) == b"TEST"


async def test_connection_that_breaks_the_protocol_is_closed_and_the_next_served(house: House) -> None:
    _, path = house.add(load("testdev"))
    for _ in range(5):
        sock = raw(path)
        sock.sendall(message(7))
        sock.settimeout(FOREVER)
        assert await asyncio.to_thread(sock.recv, 1) == b""
        sock.close()
    async with await Client.connect(path) as client:
        assert (await client.device_info()).num_regions == 9


async def test_server_ends_in_the_middle_of_a_clients_accesses(folder: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server())
        _, path = House(server, folder).add(load("testdev"))
        client = await Client.connect(path)
        await client.enable()

        async def hammer() -> None:
            while True:
                await client.region_read(0, 0, 4)

        task = asyncio.create_task(hammer())
        await asyncio.sleep(0.05)
    with pytest.raises(DisconnectedError):
        await task
    client.close()
    assert not os.listdir(folder)


async def test_a_stuck_hook_delays_nobody_but_its_own_client(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """The device on the server's thread is served meanwhile, and inspect says which one does not answer."""
    _, stuck = house.add(Watched)
    _, other = house.add(load("testdev"), SessionOptions())
    async with await Client.connect(stuck) as client, await Client.connect(other) as beside:
        await beside.enable()
        write = asyncio.create_task(client.region_write(0, STUCK, (1500).to_bytes(4, "little")))
        await asyncio.sleep(0.05)
        for _ in range(20):
            assert await beside.region_read(0, 0, 4) == b"TEST"
        with pytest.raises(LocalError, match="thread-0 has not answered for 1 s"):
            await house.server.served[0].dump()
        assert not write.done()
        await write
        assert (await house.dump())[0]["name"] == "watched"


async def test_two_devices_move_memory_to_each_other_from_two_threads(house: House) -> None:
    """S4.7: one polls on a thread of its own, the other is on the server's; each has mapped the other's BAR 2."""
    _, first = house.add(functools.partial(load("testdev"), mappable="yes"))
    _, second = house.add(functools.partial(load("testdev"), mappable="yes"), SessionOptions())
    async with await Client.connect(first) as one, await Client.connect(second) as other:
        for client, peer in ((one, other), (other, one)):
            await client.enable()
            await client.dma_map_peer(0x4000_0000, peer, 2)
        for turn in range(30):
            data = os.urandom(4096)
            await one.region_write(2, 0x80000, data)
            assert await dma(one, 1, 0x4008_0000 + 0x1000, 0x4008_0000 + 0x2000, 64) == DONE
            both = (dma(one, 2, 0x4008_0000, 0, 4096), dma(other, 2, 0x4008_0000, 0, 4096))
            assert list(await asyncio.gather(*both)) == [DONE, DONE], turn
            assert await dma(other, 3, 0, 0x4008_3000, 4096) == DONE
            assert await one.region_read(2, 0x83000, 4096) == data


class Half(Watched):
    """A function."""

    identity = PciIdentity(vendor=0x1234, device=0x00D2)


class Whole(Card):
    """Of two."""

    left = Function(Half)
    right = Function(Half)


async def test_all_functions_of_a_card_live_on_one_thread(folder: Path) -> None:
    async with Server() as server:
        home = DeviceThread("card", asyncio.get_running_loop())
        card = home.call_patiently(Whole)
        for function in card.functions:
            server.add(function, listen(folder / function.name), DEDICATED, home.serve)
        for function in card.functions:
            async with await Client.connect(folder / function.name) as client:
                assert await number(client, READ) == 0
    seen = [set(function.threads.values()) for function in card.functions if isinstance(function, Half)]
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert len(seen[0]) == 1


async def test_no_function_of_a_polled_card_waits_for_the_turn_of_another(folder: Path) -> None:
    """A turn lasts a millisecond here: both clients' accesses end those of the other."""
    options = SessionOptions(poll="dedicated", poll_us=1000)
    async with Server() as server, AsyncExitStack() as stack:
        home = DeviceThread("card", asyncio.get_running_loop())
        card = home.call_patiently(Whole)
        clients = []
        for function in card.functions:
            server.add(function, listen(folder / function.name), options, home.serve)
            clients.append(await stack.enter_async_context(await Client.connect(folder / function.name)))
        for _ in range(200):
            for client in clients:
                assert await number(client, READ) == 0
        for served in server.served:
            polling = (await served.dump())["connection"]["polling"]
            assert polling["yields"] > 100


async def test_model_that_exits_ends_the_server_and_not_only_its_thread(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.server.stop_on([signal.SIGTERM])
    try:
        _, path = house.add(Watched)
        async with await Client.connect(path) as client:
            await client.region_write(0, LEAVE, b"\1\0\0\0")
            async with asyncio.timeout(FOREVER):
                await house.server.stopped()
            assert await number(client, READ) == 0
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
    assert "the device's code ends the server" in caplog.text


async def test_inherited_connection_that_ends_finishes_the_server(folder: Path) -> None:
    async with Server() as server:
        ours, theirs = socket.socketpair()
        home = DeviceThread("one", asyncio.get_running_loop())
        device = home.call_patiently(load("testdev"))
        server.add(device, Listener(adopt(theirs.detach())), DEDICATED, home.serve)
        client = Client(ours)
        await client.negotiate()
        client.close()
        async with asyncio.timeout(FOREVER):
            await server.stopped()


def has_passed(players: Sequence[Player], ball: int) -> bool:
    """One of the two has got a higher ball."""
    return max(player.ball for player in players) > ball


@pytest.mark.parametrize("second", [DEDICATED, SessionOptions()], ids=["two threads", "a thread and the server's"])
async def test_a_ball_between_devices_of_two_threads_is_never_lost_where_they_stop(
    house: House, second: SessionOptions
) -> None:
    """S3.10, S3.25: a client that does not know the P2P states stops one after the other, and sets them going again."""
    made = [house.add(Player), house.add(Player, second)]
    players = [device for device, _ in made if isinstance(device, Player)]
    async with await Client.connect(made[0][1]) as one, await Client.connect(made[1][1]) as other:
        clients = [one, other]
        for client, peer in ((one, other), (other, one)):
            await client.dma_map_peer(PEER, peer, 2)
        await one.region_write(2, 0, (1).to_bytes(BALL, "little"))
        for client in clients:
            await client.region_write(0, 0, b"\1\0\0\0")
        for seed in range(40):
            chance = random.Random(seed)
            before = max(player.ball for player in players)
            await eventually(functools.partial(has_passed, players, before + 4))
            for client in chance.sample(clients, 2):
                await client.set_device_state(MigrationState.STOP)
                await asyncio.sleep(chance.random() / 1000)
            assert is_fair(players), seed
            for client in chance.sample(clients, 2):
                await client.set_device_state(MigrationState.RUNNING)


async def test_device_on_a_thread_waits_for_one_beside_it_that_is_stopped(house: House) -> None:
    """S3.10: it is held by its own thread, until the other one has gone."""
    (waiter, first), (_, second) = house.add(Player), house.add(Player, SessionOptions())
    assert isinstance(waiter, Player)
    async with await Client.connect(first) as client:
        await client.dma_map(PEER, client.own(GuestMemory(4096)))
        await client.region_write(0, 0, b"\1\0\0\0")

        async def plays(ball: int) -> None:
            await client.region_write(2, 0, ball.to_bytes(BALL, "little"))
            await eventually(lambda: waiter.played >= ball)

        async with await Client.connect(second) as stopping:
            await plays(1)
            await stopping.set_device_state(MigrationState.STOP)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await plays(2)
        async with asyncio.timeout(HOLD / 2):
            await plays(3)


async def test_device_stops_only_when_the_thread_of_one_beside_it_has_held_that(house: House) -> None:
    """S3.10: what that is in the middle of may be a copy into the one that stops; here it is a hook that takes long."""
    (_, busy), (_, stopping) = house.add(Watched), house.add(Watched, SessionOptions())
    async with await Client.connect(busy) as one, await Client.connect(stopping) as other:
        began = time.monotonic()
        write = asyncio.create_task(one.region_write(0, STUCK, (300).to_bytes(4, "little")))
        await asyncio.sleep(0.05)
        await other.set_device_state(MigrationState.STOP)
        assert time.monotonic() - began >= 0.3
        await write
