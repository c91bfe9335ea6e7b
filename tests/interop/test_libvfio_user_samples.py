"""Our client with the servers of libvfio-user's samples. Migration is in a file of its own."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.cells import CLIENT, LABEL, cell
from tests.interop.conftest import counted
from tests.interop.samples import SAMPLES, SAMPLES_V1, Start, of_each_version, servers, version_2
from vfuserver.client import Client, DisconnectedError, GuestMemory
from vfuserver.errors import CommandError
from vfuserver.vfio import IoFdType, RegionFlags

PEERS = "libvfio-user's samples server, gpio-pci-idio-16, null"
PAGE, PIECE, CONFIG = 4096, 1024, 7
PATTERN = b"".join(bytes([letter]) * PIECE for letter in b"ABCD")
"""What the sample `server` writes into memory after its interrupt."""
MIGRATION_REGION = 9


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start(samples, "a", "server", ...)."""
    with servers(tmp_path) as start_one:
        yield start_one


@of_each_version(CLIENT, PEERS, "null: session, regions, configuration space")
async def test_null_has_a_configuration_space_and_nothing_else(start: Start, samples: str) -> None:
    """Nothing behind its regions, and an error that leaves the session as it is."""
    async with await Client.connect(start(samples, "a", "null")) as client:
        info = await client.device_info()
        sizes = [(await client.region_info(index)).size for index in range(min(info.num_regions, MIGRATION_REGION))]
        assert [index for index, size in enumerate(sizes) if size] == [CONFIG]
        with pytest.raises(CommandError, match="EINVAL"):
            await client.region_read(0, 0, 4)
        assert await client.region_read(CONFIG, 0, 16) == bytes(16)


@of_each_version(CLIENT, PEERS, "gpio-pci-idio-16: registers, DMA_MAP, SET_IRQS")
async def test_gpio_counts_and_takes_memory_and_an_eventfd(start: Start, samples: str) -> None:
    """Registers between DMA_MAP and DMA_UNMAP, which its device makes nothing of."""
    walk = count_reads if samples == SAMPLES_V1 else count_writes
    path = start(samples, "a", "gpio-pci-idio-16")
    for turn in range(2):  # it serves one client after the other
        async with await Client.connect(path) as client:
            assert int.from_bytes(await client.region_read(CONFIG, 0, 4), "little") == 0x0DC8_494F
            assert (await client.region_info(2)).size == 0x100
            assert (await client.irq_info(0)).count == 1
            with GuestMemory(4 * PAGE) as memory:
                await client.dma_map(0, memory)
                intx = await client.arm_intx()
                await walk(client, turn)
                assert intx.take() == 0
                await client.dma_unmap(0, memory.size)


async def count_writes(client: Client, turn: int) -> None:
    """An input is set where its output was written a multiple of three times, so all are after each turn."""
    for expected in (0xFF, 0x7E, 0x7E):
        assert await client.region_read(2, 1, 1) == bytes([expected])
        await client.region_write(2, 0, b"\x81")
    assert await client.region_read(2, 1, 1) == b"\xff"


async def count_reads(client: Client, turn: int) -> None:
    """Before migration's version 2 three reads of the first register are followed by a larger number."""
    assert [await client.region_read(2, 0, 1) for _ in range(3)] == [bytes([turn])] * 3


@of_each_version(CLIENT, PEERS, "server: registers, mappable BAR, INTx, DMA by copy and by messages")
async def test_server_interrupts_in_time_and_then_moves_data_both_ways(start: Start, samples: str) -> None:
    """S0.14: the first area by messages of 1 and 2 KiB, the second by copy."""
    seen: list[tuple[str, int, int]] = []
    async with await Client.connect(start(samples, "a", "server")) as client:
        info = await client.region_info(1)
        assert RegionFlags.READ | RegionFlags.WRITE | RegionFlags.MMAP in info.flags
        assert [(area.offset, area.size) for area in info.areas] == [(0, PAGE), (2 * PAGE, PAGE)]
        with info.mmap(info.areas[0]) as area:
            area[:4] = b"vfio"
            assert await client.region_read(1, 0, 4) == b"vfio"
        await client.reset()
        client.guest.on_access = lambda *access: seen.append(access)
        with GuestMemory(2 * PAGE) as memory:
            for page in (0, PAGE):
                await client.dma_map(page, memory, offset=page, size=PAGE)
            intx = await client.arm_intx()
            await client.region_write(0, 0, (int(time.time()) + 1).to_bytes(8, "little"))
            assert await intx.wait(4) == 1
            async with asyncio.timeout(4):
                while len(seen) < 6:
                    await asyncio.sleep(0.001)
            assert memory.read(0, 2 * PAGE) == PATTERN * 2
    assert seen == [("DMA_WRITE", n * PIECE, PIECE) for n in range(4)] + [
        ("DMA_READ", n * PIECE, 2 * PIECE) for n in (0, 2)
    ]


@version_2
@cell(
    CLIENT,
    "libvfio-user's sample shadow_ioeventfd_server",
    "a doorbell with a shadow is read and rung (built with shadow-ioeventfd)",
    LABEL,
)
async def test_the_shadow_ioeventfd_of_its_server_is_read_and_rung(start: Start) -> None:
    """48 bytes, an eventfd and a file: the server takes the ring from the eventfd."""
    try:
        async with await Client.connect(start(SAMPLES, "a", "shadow_ioeventfd_server")) as client:
            io_fds = await client.region_io_fds(0)
            (one,) = io_fds.sub_regions
            assert (one.type, one.offset, one.size, len(io_fds.fds)) == (IoFdType.SHADOW, 0, 4, 2)
            assert one.ring(0x11223344)
            assert os.pread(one.shadow_fd, 4, one.shadow_offset) == b"\x44\x33\x22\x11"
            async with asyncio.timeout(5):
                while counted(one.fd):
                    await asyncio.sleep(0.01)
    except DisconnectedError:
        pytest.skip("this shadow_ioeventfd_server was built without shadow-ioeventfd, and ends when a client comes")
