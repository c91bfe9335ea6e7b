"""A device that moves from the one engine to the other: what is saved by either is loaded by either (issue 7)."""

from pathlib import Path

import pytest

from tests.engine.libvfio_user.conftest import Bench, migrates
from tests.engine.libvfio_user.test_migration import PRE_COPY, RESUMING, RUNNING, STOP_COPY, load, saved
from tests.engine.test_dma_modes import DONE, dma
from vfuserver.client import Client, GuestMemory
from vfuserver.device import loader
from vfuserver.engine import listen

TO_BUFFER, FROM_BUFFER = 2, 3
IOVA, SIZE = 0x10_0000, 0x1_0000

both_ways = pytest.mark.parametrize("to_us", [True, False], ids=["to ours", "to libvfio-user"])


@pytest.fixture(autouse=True)
def version_2() -> None:
    if not migrates():
        pytest.skip("this library has migration's version 1 only")


async def two(bench: Bench, device: str, to_us: bool) -> tuple[Client, Client]:
    """Clients of the device that is left, and of the one that it becomes."""
    ours: Path = bench.folder / "ours"
    bench.server.add(loader.load(device)(), listen(ours))
    one, other = await bench.client(ours), await bench.client(bench.add(device))
    return (other, one) if to_us else (one, other)


@both_ways
@pytest.mark.parametrize("device", ["testdev", "edu", "gpio-idio-16"])
async def test_device_is_saved_by_one_engine_and_loaded_by_the_other(bench: Bench, device: str, to_us: bool) -> None:
    """S3.11, S3.14: to the byte what it was."""
    source, target = await two(bench, device, to_us)
    await source.region_write(7, 0x3C, b"\x0b")
    stream = await saved(source)
    await load(target, stream)
    assert await target.device_state() is RUNNING
    assert await target.region_read(7, 0, 256) == await source.region_read(7, 0, 256)
    assert await saved(target) == stream


@both_ways
async def test_pre_copy_goes_from_one_engine_to_the_other(bench: Bench, to_us: bool) -> None:
    """S3.11: what is sent while the device works, and what is left of it then."""
    source, target = await two(bench, "testdev", to_us)
    with GuestMemory(SIZE) as memory:
        await source.dma_map(IOVA, memory)
        await target.dma_map(IOVA, memory)
        memory.write(0, b"in the buffer before")
        assert await dma(source, TO_BUFFER, IOVA, 0, 20) == DONE
        await source.set_device_state(PRE_COPY)
        await target.set_device_state(RESUMING)
        ahead = [piece async for piece in source.state_pieces()]
        memory.write(0, b"in the buffer behind")
        assert await dma(source, TO_BUFFER, IOVA, 0x8000, 20) == DONE
        await source.set_device_state(STOP_COPY)
        rest = [piece async for piece in source.state_pieces()]
        assert ahead
        assert rest
        for piece in ahead + rest:
            await target.write_state(piece)
        await target.set_device_state(RUNNING)
        for at, text in ((0, b"in the buffer before"), (0x8000, b"in the buffer behind")):
            assert await dma(target, FROM_BUFFER, at, IOVA + 0x1000, 20) == DONE
            assert memory.read(0x1000, 20) == text
