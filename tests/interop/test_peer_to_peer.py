"""One device's DMA aimed at another device of the same server, by a client in another process: S0.14.

The client maps the peer's BAR with its descriptor, or without: then the server's DMA messages come back to the server
as region accesses on the peer's connection, while it waits for their replies.
"""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.engine.test_dma_modes import DONE, FAILED, dma
from tests.interop.conftest import Server, two_devices
from vfuserver.client import Client, GuestMemory
from vfuserver.errors import CommandError
from vfuserver.session.commands.dma_map import DmaMapFlags

COPY, TO_BUFFER, FROM_BUFFER, FILL = 1, 2, 3, 4
BAR1, BAR2 = 1, 2
PEER, RAM = 0x4000_0000, 0x1000
FIRST, SECOND, END = 0x1000, 0x80000, 0x100000
"""Where the mappable areas of BAR2 begin, and where the last one ends."""
SIZE = 0x20000

shared = pytest.mark.parametrize("share", [True, False], ids=["fd", "messages"])


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Server]:
    with two_devices(tmp_path, mappable="yes") as running:
        yield running


@pytest.fixture
async def pair(both: Server) -> AsyncIterator[tuple[Client, Client]]:
    """A client of each device; both devices may master the bus."""
    async with await Client.connect(both.paths[0]) as one, await Client.connect(both.paths[1]) as other:
        await one.enable()
        await other.enable()
        yield one, other


def counted(client: Client) -> list[tuple[str, int, int]]:
    """The DMA messages that this client is sent."""
    seen: list[tuple[str, int, int]] = []
    client.guest.on_access = lambda *access: seen.append(access)
    return seen


@shared
async def test_every_command_reaches_the_peers_memory_and_nothing_beside_it(
    both: Server, pair: tuple[Client, Client], share: bool
) -> None:
    one, other = pair
    messages = counted(one)
    data = os.urandom(SIZE)
    memory = one.own(GuestMemory(SIZE))
    memory.write(0, data)
    await one.dma_map(RAM, memory)
    await one.dma_map_peer(PEER, other, BAR2, share=share)
    for at in (FIRST, SECOND + 3, END - SIZE):
        await other.region_write(BAR2, SECOND, bytes(END - SECOND))
        assert await dma(one, COPY, RAM, PEER + at, SIZE) == DONE
        start = max(at - 8, 0)
        found = await other.region_read(BAR2, start, min(SIZE + 16, END - start))
        assert found == (bytes(8) + data + bytes(8))[: len(found)]
        assert await dma(one, TO_BUFFER, PEER + at + 7, 0, 0x8001) == DONE
        assert await dma(one, FROM_BUFFER, 0, PEER + FIRST, 0x8001) == DONE
        assert await other.region_read(BAR2, FIRST, 0x8001) == data[7:0x8008]
        await one.region_write(0, 4, b"\x5a\0\0\0")
        assert await dma(one, FILL, 0, PEER + at, SIZE) == DONE
        assert await other.region_read(BAR2, at, SIZE) == b"\x5a" * SIZE
        await other.region_write(BAR2, FIRST, bytes(SIZE))
    assert bool(messages) is not share


@shared
async def test_devices_that_copy_into_each_other_both_keep_answering(pair: tuple[Client, Client], share: bool) -> None:
    """Both copies wait for region accesses of their own server, which has others to answer as well."""
    for client, peer in (pair, pair[::-1]):
        await client.dma_map_peer(PEER, peer, BAR2, share=share)
        await client.region_write(BAR2, SECOND, os.urandom(SIZE))
    ends = [dma(client, COPY, PEER + SECOND, PEER + SECOND + SIZE, SIZE) for client in pair]
    answers = [client.region_read(0, 0, 4) for client in pair for _ in range(100)]
    done, *answered = await asyncio.gather(asyncio.gather(*ends), *answers)
    assert done == [DONE, DONE]
    assert set(answered) == {b"TEST"}
    for client in pair:
        await client.dma_unmap(PEER, END)
        copied = await client.region_read(BAR2, SECOND, 2 * SIZE)
        assert copied[:SIZE] == copied[SIZE:]


@shared
async def test_what_is_not_mapped_is_an_error_and_nothing_hangs(pair: tuple[Client, Client], share: bool) -> None:
    """Between the areas, beyond the BAR, against the permission, and after the unmap."""
    one, other = pair
    await one.dma_map_peer(PEER, other, BAR2, access=DmaMapFlags.READ, share=share)
    for at in (0, FIRST - 1, 0x40000, SECOND - 4, END - 4):
        assert await dma(one, TO_BUFFER, PEER + at, 0, 8) == FAILED | errno.EFAULT, hex(at)
    assert await dma(one, FILL, 0, PEER + FIRST, 8) == FAILED | errno.EPERM
    assert await dma(one, TO_BUFFER, PEER + FIRST, 0, 8) == DONE
    await one.dma_unmap(PEER, END)
    assert await dma(one, TO_BUFFER, PEER + FIRST, 0, 8) == FAILED | errno.EFAULT
    with pytest.raises(CommandError):
        await one.dma_map_peer(PEER, other, BAR1)


async def test_by_messages_a_peer_that_does_not_decode_reads_as_ones(pair: tuple[Client, Client]) -> None:
    """S0.16: the region access is one like any other."""
    one, other = pair
    memory = one.own(GuestMemory(0x1000))
    await one.dma_map(RAM, memory)
    await one.dma_map_peer(PEER, other, BAR2, share=False)
    await other.config_write(4, 0, 2)
    assert await dma(one, COPY, PEER + FIRST, RAM, 64) == DONE
    assert memory.read(0, 65) == b"\xff" * 64 + b"\0"


@shared
async def test_a_peer_that_goes_leaves_an_error_or_its_memory(pair: tuple[Client, Client], share: bool) -> None:
    """A descriptor goes on to be memory; whoever would have to answer messages is gone: EIO."""
    one, other = pair
    await one.dma_map_peer(PEER, other, BAR2, share=share)
    other.close()
    assert await dma(one, TO_BUFFER, PEER + FIRST, 0, 64) == (DONE if share else FAILED | errno.EIO)
    assert await one.region_read(0, 0, 4) == b"TEST"


async def test_a_bars_file_is_mapped_once_and_goes_with_its_last_area(
    both: Server, pair: tuple[Client, Client]
) -> None:
    """S4.7: a page source as any other, beside the device's own mapping; both areas, and both devices, share it."""
    before = both.mappings().count("memfd:")
    for client in pair:
        await client.dma_map_peer(PEER, pair[1], BAR2)
    assert both.mappings().count("memfd:") == before + 1
    for client in pair:
        await client.dma_unmap(PEER, END)
    assert both.mappings().count("memfd:") == before
