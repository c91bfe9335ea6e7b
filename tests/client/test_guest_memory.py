"""Guest memory: shared with the server, or reached by its DMA messages."""

import asyncio
import errno
import os

import pytest

from tests.client.conftest import connected
from tests.session.device import LittleDevice
from vfuserver.client import Client, GuestMemory
from vfuserver.errors import CommandError, DmaError
from vfuserver.session import SessionOptions
from vfuserver.session.commands.dma_map import DmaMapFlags

PAGE = 0x1000


async def test_dma_by_messages_and_by_copy_are_the_same(client: Client, device: LittleDevice) -> None:
    """S0.14, issue 2: DMA_READ and DMA_WRITE to the client."""
    assert device.client is not None
    dma = device.client.memory
    seen: list[tuple[str, int, int]] = []
    client.guest.on_access = lambda *access: seen.append(access)
    with GuestMemory(2 * PAGE) as memory:
        memory.write(PAGE - 3, b"abcdef")
        await client.dma_map(0x10000, memory, share=False)
        await client.dma_map(0x20000, memory)
        assert await dma.read(0x10000 + PAGE - 3, 6) == b"abcdef"
        assert seen == [("DMA_READ", 0x10000 + PAGE - 3, 6)]
        await dma.write(0x10000, b"written")
        assert await dma.read(0x20000, 7) == memory.read(0, 7) == b"written"
        assert len(seen) == 2


@pytest.mark.parametrize("bare", [False, True])
async def test_large_transfers_are_cut_and_pipelined(device: LittleDevice, bare: bool) -> None:
    """S1.14: pieces of the smaller limit; S0.14: bare-header replies."""
    async with connected(
        device, SessionOptions(max_data_xfer_size=64 * 1024, quirks={"message-dma": "spec"})
    ) as client:
        await client.negotiate()
        client.guest.bare_write_reply = bare
        sizes: list[int] = []
        client.guest.on_access = lambda name, address, count: sizes.append(count)
        data = os.urandom(3 << 20)
        with GuestMemory(4 << 20) as memory:
            await client.dma_map(0, memory, share=False)
            assert device.client is not None
            await device.client.memory.write(100, data)
            assert memory.read(100, len(data)) == data
            assert await device.client.memory.read(100, len(data)) == data
        assert max(sizes) == 64 * 1024


@pytest.mark.parametrize("quirk", ["auto", "old"])
async def test_the_first_qemu_s_layout_is_found_out_or_configured(device: LittleDevice, quirk: str) -> None:
    """S0.14: both layouts, by a client that imitates the old one; wrong bytes would be four bytes off."""
    options = SessionOptions(max_data_xfer_size=64 * 1024, quirks={"message-dma": quirk})
    async with connected(device, options) as client:
        await client.negotiate()
        client.guest.bare_write_reply = client.guest.old_layout = True
        data = os.urandom(300_001)
        with GuestMemory(1 << 20) as memory:
            await client.dma_map(0, memory, share=False)
            assert device.client is not None
            await device.client.memory.write(100, data)
            assert memory.read(96, len(data) + 8) == bytes(4) + data + bytes(4)
            assert await device.client.memory.read(100, len(data)) == data


async def test_dma_that_the_client_refuses_is_eio(client: Client, device: LittleDevice) -> None:
    with GuestMemory(PAGE) as memory:
        await client.dma_map(0, memory, share=False)
        client.guest.remove(0, PAGE)
        assert device.client is not None
        with pytest.raises(DmaError, match="EFAULT") as caught:
            await device.client.memory.read(0, 1)
        assert caught.value.errno == errno.EIO


async def test_read_only_memory_is_not_written(client: Client, device: LittleDevice) -> None:
    """S1.5."""
    with GuestMemory(PAGE) as memory:
        await client.dma_map(0, memory, access=DmaMapFlags.READ)
        assert device.client is not None
        with pytest.raises(DmaError) as caught:
            await device.client.memory.write(0, b"x")
        assert caught.value.errno == errno.EPERM
        assert memory.read(0, 1) == b"\0"


async def test_a_map_that_is_refused_is_not_served_either(client: Client) -> None:
    with GuestMemory(PAGE) as memory:
        await client.dma_map(0, memory, share=False)
        with pytest.raises(CommandError) as caught:
            await client.dma_map(0, memory, share=False)
        assert caught.value.errno == errno.EEXIST
        await client.dma_unmap(0, PAGE)
        with pytest.raises(CommandError) as caught:
            client.guest.serve(11, 1, 0, bytes(8) + b"\1" + bytes(7), [])
        assert caught.value.errno == errno.EFAULT


async def test_unmap_all(client: Client, device: LittleDevice) -> None:
    with GuestMemory(4 * PAGE) as memory:
        for page in range(4):
            await client.dma_map(page * 2 * PAGE, memory, offset=page * PAGE, size=PAGE)
        await client.dma_unmap(0, 3 * PAGE)
        await client.dma_unmap_all()
        await client.dma_unmap_all()
        assert device.client is not None
        with pytest.raises(DmaError):
            device.client.memory.read_now(0, 1)


async def test_disconnect_takes_everything_back(device: LittleDevice) -> None:
    """vfio-user specification, Client Disconnection; the leak fixture counts descriptors and mappings."""
    async with connected(device) as client:
        await client.negotiate()
        with GuestMemory(PAGE) as memory:
            await client.dma_map(0, memory)
            await client.arm_msix(4)
        client.close()
        while device.client is not None:
            await asyncio.sleep(0)
    assert device.log[-1] == "detach"
