"""testdev's DMA engine, to the letter of its register map."""

import asyncio
import errno
import mmap

import pytest

from vfuserver import PciDevice, load
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import PciIrq

RAM, RAM_SIZE = 0x100_0000, 0x40_0000
FAILED = 0x8000_0000
MSIX = PciIrq.MSIX


@pytest.fixture
def ram(client: LocalClient) -> mmap.mmap:
    return client.memory.add(RAM, RAM_SIZE)


async def dma(client: LocalClient, command: int, source: int = 0, destination: int = 0, length: int = 0) -> int:
    client.write(0, 0x20, source, 8)
    client.write(0, 0x28, destination, 8)
    client.write(0, 0x30, length)
    client.write(0, 0x34, command)
    assert client.read(0, 0x38) == 1
    async with asyncio.timeout(5):
        while client.read(0, 0x38) == 1:
            await asyncio.sleep(0)
    return client.read(0, 0x38)


async def test_copy_moves_bytes(client: LocalClient, ram: mmap.mmap) -> None:
    data = bytes(range(256)) * 4096
    ram[0 : len(data)] = data
    assert await dma(client, 1, RAM, RAM + 0x20_0000, len(data)) == 2
    assert ram[0x20_0000 : 0x20_0000 + len(data)] == data


async def test_buffer_round_trip(client: LocalClient, ram: mmap.mmap) -> None:
    ram[0:5] = b"hello"
    assert await dma(client, 2, RAM, 0x100, 5) == 2
    assert await dma(client, 3, 0x100, RAM + 0x1000, 5) == 2
    assert ram[0x1000:0x1005] == b"hello"


async def test_fill_takes_the_low_byte_of_scratch(client: LocalClient, ram: mmap.mmap) -> None:
    client.write(0, 4, 0x1234_56AB)
    assert await dma(client, 4, 0, RAM + 1, 3) == 2
    assert ram[0:5] == b"\0\xab\xab\xab\0"


@pytest.mark.parametrize(
    ("command", "source", "destination", "length"),
    [
        (0, RAM, RAM, 4),
        (5, RAM, RAM, 4),
        (0x201, RAM, RAM, 4),
        (1, RAM, RAM, (64 << 20) + 1),
        (2, RAM, 0, (64 << 10) + 1),
        (2, RAM, 0xFFFF, 2),
        (3, 0x1_0000, RAM, 1),
    ],
)
async def test_wrong_command_or_length_is_einval(
    client: LocalClient, ram: mmap.mmap, command: int, source: int, destination: int, length: int
) -> None:
    assert await dma(client, command, source, destination, length) == FAILED + errno.EINVAL


async def test_unmapped_memory_is_efault(client: LocalClient, ram: mmap.mmap) -> None:
    assert await dma(client, 1, RAM + RAM_SIZE - 2, RAM, 4) == FAILED + errno.EFAULT


async def test_read_only_memory_is_eperm(client: LocalClient) -> None:
    client.memory.add(RAM, 0x1000, prot=1)
    assert await dma(client, 4, 0, RAM, 4) == FAILED + errno.EPERM


async def test_bus_mastering_off_is_eperm(client: LocalClient, ram: mmap.mmap) -> None:
    client.enable(0x0003)
    assert await dma(client, 4, 0, RAM, 4) == FAILED + errno.EPERM


async def test_command_while_busy_says_so_and_the_running_one_goes_on(client: LocalClient, ram: mmap.mmap) -> None:
    client.write(0, 0x28, RAM, 8)
    client.write(0, 0x30, 0x10_0000)
    client.write(0, 4, 0x77)
    client.write(0, 0x34, 4)
    client.write(0, 0x34, 4)
    assert client.read(0, 0x38) == FAILED + errno.EBUSY
    async with asyncio.timeout(5):
        while client.read(0, 0x38) != 2:
            await asyncio.sleep(0)
    assert ram[0xF_FFFF] == 0x77


async def test_disconnect_while_busy_is_enodev(device: PciDevice) -> None:
    with LocalClient(device) as client:
        client.enable()
        client.memory.add(RAM, RAM_SIZE)
        client.write(0, 0x28, RAM, 8)
        client.write(0, 0x30, RAM_SIZE)
        client.write(0, 0x34, 4)
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    with LocalClient(device) as client:
        assert client.read(0, 0x38) == FAILED + errno.ENODEV


async def test_bit_8_raises_vector_1_when_done(client: LocalClient, ram: mmap.mmap) -> None:
    client.arm(MSIX, 8)
    assert await dma(client, 0x104, 0, RAM, 4) == 2
    assert client.taken(MSIX, 1) == 1
    assert await dma(client, 0x104, 0, 0, 4) == FAILED + errno.EFAULT
    assert client.taken(MSIX, 1) == 0


async def test_copy_is_held_while_stopped_and_goes_on_after_a_load(client: LocalClient, ram: mmap.mmap) -> None:
    device = client.backend
    assert isinstance(device, PciDevice)
    client.write(0, 4, 0x42)
    client.write(0, 0x28, RAM, 8)
    client.write(0, 0x30, RAM_SIZE)
    client.write(0, 0x34, 4)
    for _ in range(5):
        await asyncio.sleep(0)
    device.stop()
    saved = device.snapshot()
    assert 0 < saved["state"]["moved"] < RAM_SIZE
    other = load("testdev")()
    other.stop()
    other.restore(saved)
    with LocalClient(other) as second:
        second.enable()
        there = second.memory.add(RAM, RAM_SIZE)
        other.run()
        async with asyncio.timeout(5):
            while second.read(0, 0x38) == 1:
                await asyncio.sleep(0)
        assert second.read(0, 0x38) == 2
        assert there[0] == 0
        assert there[RAM_SIZE - 1] == 0x42
    other.close()
