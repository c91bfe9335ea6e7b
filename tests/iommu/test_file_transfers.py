"""preadv and pwritev between a file and client memory of every kind: S1.12, S4.12."""

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.iommu.conftest import BY_FILE, MAPPED, PAGE, PATTERN, REMOTE, Remote, error_when_awaited
from vfuserver._core import PROT_READ, PROT_WRITE
from vfuserver.iommu.file_transfers import RUN
from vfuserver.testing.local_client import LocalMemory

BIG = 0x100000
EVERYWHERE = [(MAPPED + 5, 100), (REMOTE + PAGE - 10, 3000), (BY_FILE + 7, 33), (MAPPED + 2 * PAGE, 2 * PAGE)]
SIZE = sum(length for _, length in EVERYWHERE)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "disk"
    path.write_bytes(b"head" + PATTERN)
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


async def test_a_file_fills_every_kind_of_memory(memory: LocalMemory, file: int) -> None:
    assert await memory.preadv(file, EVERYWHERE, 4) == SIZE
    assert await memory.readv(EVERYWHERE) == PATTERN[:SIZE]


async def test_every_kind_of_memory_goes_to_a_file(memory: LocalMemory, file: int) -> None:
    await memory.writev(EVERYWHERE, PATTERN[1 : SIZE + 1])
    assert await memory.pwritev(file, EVERYWHERE, 10) == SIZE
    assert os.pread(file, SIZE + 2, 9) == PATTERN[5:6] + PATTERN[1 : SIZE + 1] + PATTERN[SIZE + 6 : SIZE + 7]


async def test_runs_are_moved_one_after_another(
    memory: LocalMemory, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vfuserver.iommu.file_transfers.RUN", 1000)
    monkeypatch.setattr("vfuserver.iommu.file_transfers.LARGE", 1)
    assert await memory.preadv(file, EVERYWHERE, 4) == SIZE
    assert await memory.readv(EVERYWHERE) == PATTERN[:SIZE]
    assert await memory.pwritev(file, EVERYWHERE, 0) == SIZE
    assert os.pread(file, SIZE, 0) == PATTERN[:SIZE]


@pytest.mark.parametrize("iova", [MAPPED, REMOTE])
async def test_the_end_of_the_file_ends_the_transfer(memory: LocalMemory, file: int, iova: int) -> None:
    end = 4 + len(PATTERN)
    assert await memory.preadv(file, [(iova, 3), (iova + 8, 10)], end - 5) == 5
    assert await memory.read(iova, 12) == PATTERN[-5:-2] + bytes(5) + PATTERN[-2:] + bytes(2)
    assert await memory.preadv(file, [(iova, 3)], end) == 0


@pytest.mark.parametrize("iova", [MAPPED, REMOTE])
async def test_the_files_own_error_is_told(memory: LocalMemory, iova: int) -> None:
    reader, writer = os.pipe()
    assert await error_when_awaited(memory.preadv(reader, [(iova, 8)], 0)) == errno.ESPIPE
    assert await error_when_awaited(memory.pwritev(writer, [(iova, 8)], 0)) == errno.ESPIPE
    os.close(reader)
    os.close(writer)
    assert await error_when_awaited(memory.preadv(writer, [(iova, 8)], 0)) == errno.EBADF


async def test_a_hole_or_a_permission_is_refused_before_the_file_is_read(memory: LocalMemory, file: int) -> None:
    memory.add(0x80000, PAGE, PROT_READ)
    assert await error_when_awaited(memory.preadv(file, [(MAPPED, 8), (0x80000, 8)], 0)) == errno.EPERM
    assert await error_when_awaited(memory.preadv(file, [(MAPPED, 8), (0x70000, 8)], 0)) == errno.EFAULT
    assert await error_when_awaited(memory.preadv(file, [(MAPPED, RUN), (0x70000, 8)], 0)) == errno.EFAULT
    assert memory.read_now(MAPPED, 8) == bytes(8)


@pytest.mark.parametrize("iova", [MAPPED, REMOTE])
async def test_a_length_without_end_is_refused(memory: LocalMemory, file: int, iova: int) -> None:
    """A guest names lengths: none may keep the server."""
    assert await error_when_awaited(memory.preadv(file, [(iova, 1 << 60)], 0)) == errno.EFAULT
    assert await error_when_awaited(memory.pwritev(file, [(iova, 1 << 60)], 0)) == errno.EFAULT
    memory.ioas.map(1 << 60, 1 << 60, PROT_READ | PROT_WRITE)
    assert await error_when_awaited(memory.pwritev(file, [(1 << 60, 1 << 60)], 0)) == errno.EIO


async def test_an_unmap_between_two_runs_ends_the_transfer(
    memory: LocalMemory, remote: Remote, file: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1.9."""
    monkeypatch.setattr("vfuserver.iommu.file_transfers.RUN", PAGE)
    remote.answers.clear()
    pieces = [(MAPPED, PAGE), (REMOTE, PAGE), (MAPPED + PAGE, PAGE)]
    task = asyncio.create_task(memory.preadv(file, pieces, 4))
    while not remote.asked:
        await asyncio.sleep(0)
    assert memory.read_now(MAPPED, PAGE) == PATTERN[:PAGE]
    memory.remove(MAPPED, 4 * PAGE)
    remote.answers.set()
    assert await error_when_awaited(task) == errno.EFAULT
    assert await memory.read(REMOTE, PAGE) == PATTERN[PAGE : 2 * PAGE]


async def test_an_ended_caller_leaves_nothing_that_still_moves(memory: LocalMemory) -> None:
    """When the task is over, no thread is at it any more: descriptor and memory are the caller's again."""
    size = 4 << 20
    memory.add(BIG, size, PROT_READ | PROT_WRITE)
    fd = os.memfd_create("disk", os.MFD_CLOEXEC)
    os.pwrite(fd, b"\x5a" * size, 0)
    for _ in range(20):
        memory.write_now(BIG, bytes(size))
        task = asyncio.create_task(memory.preadv(fd, [(BIG, size)], 0))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        moved = memory.read_now(BIG, size).rstrip(b"\0")
        assert len(moved) % RUN == 0
        assert memory.read_now(BIG, size) == b"\x5a" * len(moved) + bytes(size - len(moved))
    os.close(fd)


@pytest.mark.parametrize(("size", "at_once"), [(PAGE, True), (64 << 10, False)])
async def test_only_what_is_large_is_left_to_a_thread(memory: LocalMemory, size: int, at_once: bool) -> None:
    """A file that makes its reader wait must not make the loop wait."""
    memory.add(BIG, size, PROT_READ | PROT_WRITE)
    fd = os.memfd_create("disk", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    for transfer in (memory.preadv, memory.pwritev):
        task = asyncio.create_task(transfer(fd, [(BIG, size)], 0))
        await asyncio.sleep(0)
        assert task.done() is at_once
        assert await task == size
    os.close(fd)
