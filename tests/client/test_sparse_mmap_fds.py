"""A region of several files through both ends: our client maps what our server's device wrote."""

from collections.abc import Iterator

import pytest

from tests.client.conftest import connected
from vfuserver import Bar, KiB, PciDevice, PciIdentity
from vfuserver.client import QEMU_PROPOSAL


class Several(PciDevice):
    """Two windows with a file each."""

    identity = PciIdentity(vendor=0x1234, device=0x000D)
    bar = Bar(0, size=32 * KiB, backing="windows")
    first = bar.memory(0x1000, 0x1000, reset=b"first")
    second = bar.memory(0x4000, 0x2000, reset=b"second")


@pytest.fixture
def device() -> Iterator[Several]:
    made = Several()
    yield made
    made.close()


async def test_every_area_is_mapped_from_its_own_file(device: Several) -> None:
    async with connected(device) as client:
        server = await client.negotiate({**QEMU_PROPOSAL, "sparse_mmap_fds": True})
        assert server.sparse_mmap_fds
        await client.enable()
        info = await client.region_info(0)
        assert len(info.fds) == 2
        first, second = (info.mmap(area) for area in info.areas)
        with first, second:
            assert (first[:6], second[:6]) == (b"first\0", b"second")
            second[0x1FFC:] = b"last"
            assert await client.region_read(0, 0x5FFC, 4) == b"last"
            await client.region_write(0, 0x1000, b"FIRST")
            assert first[:5] == b"FIRST"


async def test_a_client_of_one_descriptor_maps_the_larger_window(device: Several) -> None:
    async with connected(device) as client:
        await client.negotiate()
        info = await client.region_info(0)
        (area,) = info.areas
        assert (len(info.fds), area.offset, area.size) == (1, 0x4000, 0x2000)
        with info.mmap(area) as second:
            assert second[:6] == b"second"
        await client.enable()
        assert await client.region_read(0, 0x1000, 5) == b"first"
