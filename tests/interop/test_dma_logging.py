"""The log of writes over the wire: a server in its own process, our client here, testdev's DMA engine writing."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from tests.interop.conftest import Server
from vfuserver.client import Client, GuestMemory, dirty_ranges
from vfuserver.session.commands.dma_map import DmaMapFlags

BASE, SIZE, PAGE = 0x40000000, 8 << 20, 4096
FILL, BUSY, DONE = 4, 1, 2
HIDDEN = BASE + (1 << 30)
"""Where memory is mapped without its descriptor."""


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    async with await Client.connect(server.path) as connected:
        await connected.reset()
        await connected.enable()
        yield connected


async def fill(client: Client, iova: int, length: int) -> None:
    """Has testdev write."""
    registers = bytes(8) + iova.to_bytes(8, "little") + length.to_bytes(4, "little")
    for at in range(0, len(registers), 4):
        await client.region_write(0, 0x20 + at, registers[at : at + 4])
    await client.region_write(0, 0x34, FILL.to_bytes(4, "little"))
    while (status := int.from_bytes(await client.region_read(0, 0x38, 4), "little")) == BUSY:
        await asyncio.sleep(0)
    assert status == DONE


def pages(bitmap: bytes | bytearray) -> set[int]:
    return {(iova + at) // PAGE for iova, size in dirty_ranges(bitmap, 0) for at in range(0, size, PAGE)}


@pytest.mark.parametrize("mode", [DmaMapFlags.MMAP, DmaMapFlags.FILE_IO], ids=["mapped", "file I/O"])
async def test_pages_that_testdev_writes_are_reported_once(client: Client, mode: DmaMapFlags) -> None:
    """S3.19, S3.20: exactly the pages whose bytes have changed, in bursts between which reports are taken."""
    memory = client.own(GuestMemory(SIZE))
    await client.dma_map(BASE, memory, mode=mode)
    assert await client.dma_logging_start([(BASE, SIZE)]) == PAGE
    await client.region_write(0, 0x04, b"\xa5")
    random.seed(mode)
    for _ in range(4):
        writes = [(random.randrange(SIZE - 40000), random.randrange(1, 40000)) for _ in range(5)]
        for at, length in writes:
            await fill(client, BASE + at, length)
        touched = {page for at, length in writes for page in range(at // PAGE, (at + length - 1) // PAGE + 1)}
        assert pages(await client.dma_logging_report(BASE, SIZE)) == touched
    assert pages(await client.dma_logging_report(BASE, SIZE)) == set()
    await client.dma_logging_stop()


async def test_pages_written_by_message_are_noted_by_the_client(client: Client) -> None:
    """S3.20: the server reports them clean."""
    memory = client.own(GuestMemory(SIZE))
    await client.dma_map(HIDDEN, memory, share=False)
    await client.dma_logging_start()
    await fill(client, HIDDEN + PAGE - 1, 2)
    assert pages(await client._report(HIDDEN, SIZE, PAGE)) == set()
    assert pages(await client.dma_logging_report(HIDDEN, SIZE)) == {0, 1}
    assert pages(await client.dma_logging_report(HIDDEN, SIZE)) == set()


async def test_a_report_is_taken_while_the_device_writes(client: Client) -> None:
    """S3.19: nothing is lost between reports, whenever they come."""
    memory = client.own(GuestMemory(SIZE))
    await client.dma_map(BASE, memory)
    await client.dma_logging_start()
    found: set[int] = set()
    for at in range(0, SIZE, SIZE // 8):
        work = asyncio.create_task(fill(client, BASE + at, SIZE // 8))
        while not work.done():
            found |= pages(await client.dma_logging_report(BASE, SIZE))
    found |= pages(await client.dma_logging_report(BASE, SIZE))
    assert found == set(range(SIZE // PAGE))


async def test_a_bitmap_beyond_our_limit_is_asked_for_in_parts(server: Server) -> None:
    """S3.19: 1 MiB of bitmap covers 32 GiB of pages."""
    async with await Client.connect(server.path) as client:
        await client.reset()
        await client.enable()
        memory = client.own(GuestMemory(SIZE))
        await client.dma_map(40 << 30, memory)
        await client.dma_logging_start()
        await fill(client, (40 << 30) + 5 * PAGE, 1)
        bitmap = await client.dma_logging_report(0, 100 << 30)
        assert list(dirty_ranges(bitmap, 0)) == [((40 << 30) + 5 * PAGE, PAGE)]
        assert list(dirty_ranges(await client.dma_logging_report(0, 100 << 30, 2 << 20), 0, 2 << 20)) == []
