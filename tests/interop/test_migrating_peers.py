"""Two devices of one server that copy into each other, moved together to another server: S3.10, S3.25."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.engine.test_dma_modes import DONE, end, start
from tests.interop.conftest import two_devices
from tests.interop.test_peer_to_peer import BAR2, COPY, PEER, RAM
from vfuserver.client import TWIN_PROPOSAL, Client, GuestMemory
from vfuserver.client.peer_region import PeerRegion
from vfuserver.vfio import MigrationState

PLACE, LENGTH = 0x8_2000, 0x7_E000
"""In BAR2: two pieces of testdev's engine."""
RUNNING, STOP, STOP_COPY = MigrationState.RUNNING, MigrationState.STOP, MigrationState.STOP_COPY
QUIET, RESUMING = MigrationState.RUNNING_P2P, MigrationState.RESUMING
Pair = tuple[Client, Client]


@pytest.fixture
def sockets(tmp_path: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Of two servers with two devices each."""
    for name in "ab":
        (tmp_path / name).mkdir()
    with two_devices(tmp_path / "a", mappable="yes") as one, two_devices(tmp_path / "b", mappable="yes") as other:
        yield one.paths, other.paths


@pytest.fixture
async def pairs(sockets: tuple[list[str], list[str]]) -> AsyncIterator[tuple[Pair, Pair]]:
    """A client of each device. A relay needs twin sockets: on one socket what it passes on for the one device can stand
    between a request to the other and the replies that this one waits for."""
    async with AsyncExitStack() as stack:
        made = []
        for paths in sockets:
            clients = [await stack.enter_async_context(await Client.connect(path, TWIN_PROPOSAL)) for path in paths]
            for client in clients:
                await client.enable()
            made.append((clients[0], clients[1]))
        yield made[0], made[1]


async def set_up(clients: Pair, content: Sequence[bytes], share: bool) -> None:
    """Memory for both, by messages so that it takes its time, and the other's BAR2."""
    for one, other, data in zip(clients, clients[::-1], content, strict=True):
        memory = one.own(GuestMemory(0x8_0000))
        memory.write(0, data)
        await one.dma_map(RAM, memory, share=False)
        await one.dma_map_peer(PEER, other, BAR2, share=share)


async def set_all(clients: Sequence[Client], state: MigrationState, chance: random.Random) -> None:
    for client in chance.sample(clients, len(clients)):
        await client.set_device_state(state)
        await asyncio.sleep(chance.random() / 500)


async def carry(here: Client, there: Client) -> None:
    """All of one device's state, which stops for that if nobody has stopped it yet."""
    await here.set_device_state(STOP_COPY)
    async for piece in here.state_pieces():
        await there.write_state(piece)
    await there.set_device_state(STOP)


@pytest.mark.parametrize(
    ("aware", "share"),
    [(True, True), (True, False), (False, True)],
    ids=["P2P first, fd", "P2P first, messages", "one after the other, fd"],
)
async def test_what_devices_copy_into_each_other_arrives_wherever_they_are(
    pairs: tuple[Pair, Pair], aware: bool, share: bool
) -> None:
    """A client that relays what devices write to each other must know the P2P states: what it passes on behind its
    request to stop is too late."""
    old, new = pairs
    chance = random.Random(LENGTH)
    for _ in range(12):
        content = [chance.randbytes(LENGTH) for _ in old]
        await set_up(old, content, share)
        await set_up(new, content, share)
        await set_all(new, RESUMING, chance)
        for client in old:
            await start(client, COPY, RAM, PEER + PLACE, LENGTH)
        await asyncio.sleep(chance.random() / 500)
        if aware:
            await set_all(old, QUIET, chance)
        for here, there in chance.sample([*zip(old, new, strict=True)], 2):
            await carry(here, there)
        if aware:
            await set_all(new, QUIET, chance)
        await set_all(new, RUNNING, chance)
        assert [await end(client) for client in new] == [DONE, DONE]
        for client, data in zip(new, content[::-1], strict=True):
            assert await PeerRegion(client, BAR2).read(PLACE, LENGTH) == data
        for client in (*old, *new):
            await client.dma_unmap_all()
            await client.reset()
            await client.enable()


def test_two_devices_are_saved_at_once_by_two_threads(sockets: tuple[list[str], list[str]]) -> None:
    """S3.25: neither waits for the other; it is the same state as when they are saved one after the other."""

    async def save(path: str, results: dict[str, bytes], meet: threading.Barrier) -> None:
        async with await Client.connect(path) as client:
            await client.set_device_state(STOP)
            meet.wait(10)
            await client.set_device_state(STOP_COPY)
            results[path] = await client.read_state(1 << 30)
            await client.set_device_state(RUNNING)

    one_by_one: dict[str, bytes] = {}
    for path in sockets[0]:
        asyncio.run(save(path, one_by_one, threading.Barrier(1)))
    at_once: dict[str, bytes] = {}
    barrier = threading.Barrier(2)
    threads = [
        threading.Thread(target=lambda path=path: asyncio.run(save(path, at_once, barrier))) for path in sockets[0]
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert at_once == one_by_one
    assert len(at_once) == 2


async def test_an_asynchronous_register_answers_in_p2p_and_the_other_device_works(pairs: tuple[Pair, Pair]) -> None:
    """S3.10: well before the deadline of 4 s."""
    (one, other), _ = pairs
    await one.region_write(0, 0x44, (20_000).to_bytes(4, "little"))
    await one.set_device_state(QUIET)
    started = asyncio.get_running_loop().time()
    await one.region_read(0, 0x48, 4)
    assert asyncio.get_running_loop().time() - started < 2
    memory = other.own(GuestMemory(0x8_0000))
    await other.dma_map(RAM, memory)
    await start(other, COPY, RAM, RAM + 4096, 4096)
    assert await end(other) == DONE
    await one.set_device_state(STOP_COPY)
    await start(other, COPY, RAM, RAM + 4096, 4096)
    assert await end(other) == DONE
    assert len(await one.read_state(1 << 30)) > 1 << 20
    assert asyncio.get_running_loop().time() - started < 4
