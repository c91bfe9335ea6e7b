"""testdev's DMA engine in memory of our own client, in each way in which a server may reach it (S1.5, issue 3)."""

import asyncio
import errno

import pytest

from tests.engine.conftest import Serve
from vfuserver.client import Client, GuestMemory
from vfuserver.errors import CommandError
from vfuserver.session.commands.dma_map import DmaMapFlags

SIZE, BASE = 1 << 20, 0x100000
TO_BUFFER, FROM_BUFFER, BUSY, DONE, FAILED = 2, 3, 1, 2, 0x80000000
MMAP, FILE_IO = DmaMapFlags.MMAP, DmaMapFlags.FILE_IO


async def start(client: Client, command: int, source: int, destination: int, length: int) -> None:
    """Gives the engine a command; its registers stand in a row at 0x20."""
    registers = source.to_bytes(8, "little") + destination.to_bytes(8, "little") + length.to_bytes(4, "little")
    for at in range(0, len(registers), 4):
        await client.region_write(0, 0x20 + at, registers[at : at + 4])
    await client.region_write(0, 0x34, command.to_bytes(4, "little"))


async def end(client: Client) -> int:
    """Its status once it is idle."""
    while (status := int.from_bytes(await client.region_read(0, 0x38, 4), "little")) == BUSY:
        await asyncio.sleep(0)
    return status


async def dma(client: Client, command: int, source: int, destination: int, length: int) -> int:
    """The engine's status after a command."""
    await start(client, command, source, destination, length)
    return await end(client)


@pytest.mark.parametrize("share", [True, False], ids=["fd", "messages"])
@pytest.mark.parametrize("mode", [DmaMapFlags(0), MMAP, FILE_IO, MMAP | FILE_IO])
async def test_bytes_arrive_however_memory_is_reached(serve: Serve, mode: DmaMapFlags, share: bool) -> None:
    """Mapped, by file I/O, by messages; a mode belongs to a descriptor."""
    messages: list[str] = []
    async with await Client.connect(serve("testdev")) as client:
        await client.enable()
        client.guest.on_access = lambda name, address, count: messages.append(name)
        memory = client.own(GuestMemory(SIZE))
        memory.write(3, b"to the device and back")
        if mode and not share:
            with pytest.raises(CommandError) as caught:
                await client.dma_map(BASE, memory, mode=mode, share=False)
            assert caught.value.errno == errno.EINVAL
            return
        await client.dma_map(BASE, memory, mode=mode, share=share)
        assert await dma(client, TO_BUFFER, BASE + 3, 0, 22) == DONE
        assert await dma(client, FROM_BUFFER, 0, BASE + SIZE - 22, 22) == DONE
        assert memory.read(SIZE - 22, 22) == b"to the device and back"
        assert messages == ([] if share else ["DMA_READ", "DMA_WRITE"])
