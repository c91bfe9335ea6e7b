"""Scatter-gather lists, copies and atomics on every kind of memory: S1.5, S4.12."""

import asyncio
import errno

import pytest

from tests.iommu.conftest import BY_FILE, MAPPED, PAGE, PATTERN, REMOTE, Remote, error_of, error_when_awaited
from vfuserver._core import ADD, AND, COMPARE, LOAD, OR, PROT_READ, STORE, SWAP
from vfuserver.testing.local_client import LocalMemory

EVERYWHERE = [(MAPPED + 5, 100), (REMOTE + PAGE - 10, 20), (BY_FILE + 7, 33), (REMOTE + 3 * PAGE, 0), (MAPPED, 5)]
SIZE = sum(length for _, length in EVERYWHERE)


async def test_a_list_over_every_kind_of_memory_comes_back_as_it_was_written(memory: LocalMemory) -> None:
    await memory.writev(EVERYWHERE, PATTERN[:SIZE])
    assert await memory.readv(EVERYWHERE) == PATTERN[:SIZE]
    assert await memory.read(MAPPED + 5, 100) == PATTERN[:100]
    assert await memory.read(REMOTE + PAGE - 10, 20) == PATTERN[100:120]
    assert memory.read_now(BY_FILE + 7, 33) == PATTERN[120:153]


async def test_messages_of_a_list_are_under_way_together(memory: LocalMemory, remote: Remote) -> None:
    remote.answers.clear()
    task = asyncio.create_task(memory.readv([(REMOTE + at * PAGE, 8) for at in range(8)]))
    while len(remote.asked) < 8:
        await asyncio.sleep(0)
    remote.answers.set()
    assert await task == bytes(64)


async def test_the_first_error_of_a_list_ends_the_others(memory: LocalMemory, remote: Remote) -> None:
    remote.refuses = {REMOTE + PAGE, REMOTE + 2 * PAGE}
    pieces = [(REMOTE + at * PAGE, 8) for at in range(8)]
    assert await error_when_awaited(memory.readv(pieces)) == errno.EIO
    assert await error_when_awaited(memory.writev(pieces, bytes(64))) == errno.EIO
    assert len(asyncio.all_tasks()) == 1


async def test_an_ended_caller_ends_its_messages(memory: LocalMemory, remote: Remote) -> None:
    remote.answers.clear()
    task = asyncio.create_task(memory.read(REMOTE, 8 * PAGE))
    while len(remote.asked) < 8:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_bytes_that_do_not_fit_the_list_are_einval(memory: LocalMemory) -> None:
    assert await error_when_awaited(memory.writev([(MAPPED, 4)], b"12345")) == errno.EINVAL
    assert error_of(lambda: memory.writev_now([(MAPPED, 4)], b"123")) == errno.EINVAL
    assert memory.read_now(MAPPED, 5) == bytes(5)


def test_lists_at_once_reach_mapped_memory_only(memory: LocalMemory) -> None:
    pieces = [(MAPPED + PAGE, 3), (BY_FILE, 2)]
    memory.writev_now(pieces, b"abcde")
    assert memory.readv_now(pieces) == b"abcde"
    for call in (
        lambda: memory.readv_now([(MAPPED, 1), (REMOTE, 1)]),
        lambda: memory.writev_now([(REMOTE, 1)], b"x"),
        lambda: memory.copy_now(MAPPED, REMOTE, 1),
    ):
        assert error_of(call) == errno.EFAULT


@pytest.mark.parametrize("source", [MAPPED, BY_FILE, REMOTE])
@pytest.mark.parametrize("destination", [MAPPED + 2 * PAGE, BY_FILE + 2 * PAGE, REMOTE + 2 * PAGE])
async def test_a_copy_moves_bytes_between_all_kinds(memory: LocalMemory, source: int, destination: int) -> None:
    await memory.write(source + 3, PATTERN[:5000])
    await memory.copy(source + 3, destination + 9, 5000)
    assert await memory.read(destination + 9, 5000) == PATTERN[:5000]


async def test_a_copy_by_messages_is_cut_into_runs(memory: LocalMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfuserver.iommu.access.COPY_RUN", 700)
    await memory.write(MAPPED, PATTERN[:4000])
    await memory.copy(MAPPED, REMOTE, 4000)
    assert await memory.read(REMOTE, 4000) == PATTERN[:4000]


async def test_a_hole_is_efault_and_a_missing_permission_eperm(memory: LocalMemory, remote: Remote) -> None:
    memory.add(0x80000, PAGE, PROT_READ)
    memory.ioas.map(0x90000, PAGE, PROT_READ)
    for iova in (0x80000, 0x90000):
        assert await error_when_awaited(memory.writev([(REMOTE, 1), (iova, 1)], b"xy")) == errno.EPERM
        assert await error_when_awaited(memory.copy(MAPPED, iova, 4)) == errno.EPERM
    assert await error_when_awaited(memory.readv([(REMOTE, 1), (0x70000, 1)])) == errno.EFAULT
    assert await error_when_awaited(memory.copy(MAPPED, 0x70000, 4)) == errno.EFAULT
    assert remote.asked == []


def test_atomics_do_what_they_are_called_and_give_what_was_there(memory: LocalMemory) -> None:
    steps = [(STORE, 0xF0, 0), (ADD, 0x20, 0xF0), (OR, 0x03, 0x10), (AND, 0x0F, 0x13), (SWAP, 9, 3)]
    for operation, operand, before in steps:
        found = memory.atomic(operation, MAPPED + 1, 1, operand)
        assert operation == STORE or found == before
    assert memory.atomic(COMPARE, MAPPED + 1, 1, 7, 8) == 9
    assert memory.atomic(COMPARE, MAPPED + 1, 1, 7, 9) == 9
    assert memory.atomic(LOAD, MAPPED + 1, 1) == 7


@pytest.mark.parametrize(("iova", "size"), [(MAPPED + 2, 4), (MAPPED + 4, 8), (MAPPED, 3), (MAPPED, 0), (MAPPED, 16)])
def test_atomics_of_odd_size_or_place_are_einval(memory: LocalMemory, iova: int, size: int) -> None:
    assert error_of(lambda: memory.atomic(LOAD, iova, size)) == errno.EINVAL


@pytest.mark.parametrize("iova", [BY_FILE, REMOTE, 0x70000])
def test_atomics_need_mapped_memory(memory: LocalMemory, iova: int) -> None:
    assert error_of(lambda: memory.atomic(ADD, iova, 4, 1)) == errno.EFAULT


async def test_a_detached_access_is_enodev_in_every_call(memory: LocalMemory) -> None:
    memory.detach()
    for call in (
        lambda: memory.readv_now([(MAPPED, 1)]),
        lambda: memory.writev_now([(MAPPED, 1)], b"x"),
        lambda: memory.copy_now(MAPPED, MAPPED + 8, 1),
        lambda: memory.atomic(LOAD, MAPPED, 4),
        lambda: memory.pin(MAPPED, 4, False),
        lambda: memory.check(MAPPED, 4, False),
    ):
        assert error_of(call) == errno.ENODEV
    for work in (
        memory.readv([(MAPPED, 1)]),
        memory.writev([(MAPPED, 1)], b"x"),
        memory.copy(MAPPED, MAPPED + 8, 1),
        memory.preadv(0, [(MAPPED, 1)], 0),
        memory.pwritev(0, [(MAPPED, 1)], 0),
    ):
        assert await error_when_awaited(work) == errno.ENODEV
