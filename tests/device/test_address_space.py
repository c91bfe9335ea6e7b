"""A device's own translation in front of the client's memory: S4.17, S4.18, S4.19."""

import asyncio
import errno
import os

import pytest

from vfuserver import AddressSpace, DmaError
from vfuserver.testing.local_client import LocalClient, LocalMemory
from vfuserver.vfio import Memory

from .conftest import Sample

PAGE = 0x1000
RAM, TABLE = 0x10_0000, 0x20_0000
PAGES = {0: 3, 1: 1, 2: 2, 5: 0}
"""The guest's page table: page of the device's address -> page of RAM, present where it is listed."""


def walk(memory: Memory, address: int, write: bool) -> tuple[int, int] | None:
    """One level, eight bytes an entry: bit 0 present, bit 1 writable."""
    entry = int.from_bytes(memory.read_now(TABLE + address // PAGE * 8, 8), "little")
    if write and entry & 3 == 1:
        raise DmaError(errno.EPERM, f"{address:#x} is read-only")
    within = address % PAGE
    return ((entry & -PAGE) + within, PAGE - within) if entry & 1 else None


@pytest.fixture
def ram(client: LocalClient, device: Sample) -> LocalMemory:
    memory = client.memory
    memory.add(RAM, 8 * PAGE)
    memory.add(TABLE, PAGE)
    for page, target in PAGES.items():
        memory.write_now(TABLE + page * 8, (RAM + target * PAGE | 3).to_bytes(8, "little"))
    device.dma.translate = walk
    return memory


def failure(call: object) -> int:
    assert callable(call)
    with pytest.raises(DmaError) as raised:
        call()
    return raised.value.errno


# -- stage 1


async def test_accesses_go_where_the_table_says(ram: LocalMemory, device: Sample) -> None:
    """S4.17."""
    data = bytes(range(200)) * 50
    await device.dma.write(100, data)
    assert ram.read_now(RAM + 3 * PAGE + 100, PAGE - 100) == data[: PAGE - 100]
    assert ram.read_now(RAM + PAGE, 2 * PAGE)[: len(data) - PAGE + 100] == data[PAGE - 100 :]
    assert await device.dma.read(100, len(data)) == device.dma.read_now(100, len(data)) == data
    device.dma.writev_now([(PAGE - 1, 2)], b"xy")
    assert await device.dma.readv([(PAGE, 1), (PAGE - 1, 1)]) == b"yx"


async def test_copies_are_cut_where_either_side_is(ram: LocalMemory, device: Sample) -> None:
    data = bytes(range(250)) * 20
    device.dma.write_now(10, data)
    await device.dma.copy(10, PAGE + 1500, 3000)
    assert device.dma.read_now(PAGE + 1500, 3000) == data[:3000]
    device.dma.copy_now(PAGE + 1500, 0, 1000)
    assert device.dma.read_now(0, 1000) == data[:1000]


async def test_files_go_through_the_table(ram: LocalMemory, device: Sample) -> None:
    fd = os.memfd_create("disk", os.MFD_CLOEXEC)
    os.pwrite(fd, b"0123456789", 0)
    assert await device.dma.preadv(fd, [(PAGE - 5, 10)], 0) == 10
    assert ram.read_now(RAM + 4 * PAGE - 5, 5) + ram.read_now(RAM + PAGE, 5) == b"0123456789"
    assert await device.dma.pwritev(fd, [(PAGE - 1, 2)], 10) == 2
    assert os.pread(fd, 2, 10) == b"45"
    os.close(fd)


def test_atomics_and_views_take_what_is_one_piece(ram: LocalMemory, device: Sample) -> None:
    device.dma.store(5 * PAGE + 8, 4, 77)
    assert ram.read_now(RAM + 8, 1) == b"\x4d"
    assert device.dma.fetch_add(5 * PAGE + 8, 4, 1) == 77
    with device.dma.pin(PAGE + 10, PAGE, writable=True) as view:
        view.memory[PAGE - 1] = 9
    assert device.dma.read_now(2 * PAGE + 9, 1) == b"\x09"
    with pytest.raises(DmaError, match="leads to 2 pieces") as raised:
        device.dma.pin(10, PAGE)
    assert raised.value.errno == errno.EINVAL


def test_absent_read_only_and_unmapped_pages(ram: LocalMemory, device: Sample) -> None:
    ram.write_now(TABLE + 8, (RAM | 1).to_bytes(8, "little"))
    ram.write_now(TABLE + 16, (0x66_0000 | 3).to_bytes(8, "little"))
    assert device.dma.load(PAGE, 4) == device.dma.read_now(PAGE, 1)[0] == 0
    assert failure(lambda: device.dma.write_now(PAGE, b"x")) == errno.EPERM
    assert failure(lambda: device.dma.fetch_or(PAGE, 4, 1)) == errno.EPERM
    assert failure(lambda: device.dma.read_now(2 * PAGE, 1)) == errno.EFAULT
    assert failure(lambda: device.dma.write_now(3 * PAGE - 1, b"xy")) == errno.EFAULT


def test_without_the_hook_addresses_are_iovas_again(ram: LocalMemory, device: Sample) -> None:
    assert device.dma.translate is walk
    device.dma.translate = None
    assert device.dma.read_now(RAM, 4) == bytes(4)


def test_a_translation_to_nothing_is_a_miss(ram: LocalMemory, device: Sample) -> None:
    device.dma.translate = lambda memory, address, write: (RAM, 0)
    assert failure(lambda: device.dma.read_now(0, 1)) == errno.EFAULT


def test_a_length_without_end_is_refused(ram: LocalMemory, device: Sample) -> None:
    """A guest writes both the length and the page table."""
    device.dma.translate = lambda memory, address, write: (RAM, PAGE)
    with pytest.raises(DmaError, match="must be cut into several") as raised:
        device.dma.read_now(0, 1 << 60)
    assert raised.value.errno == errno.EINVAL


# -- misses


async def test_a_miss_hook_may_make_the_page_present(ram: LocalMemory, device: Sample) -> None:
    """S4.19."""
    asked = []

    async def page_in(memory: Memory, address: int, write: bool) -> bool:
        asked.append((address, write))
        await asyncio.sleep(0)
        await memory.write(TABLE + address // PAGE * 8, (RAM + 5 * PAGE | 3).to_bytes(8, "little"))
        return True

    device.dma.on_miss = page_in
    assert device.dma.on_miss is page_in
    await device.dma.write(3 * PAGE - 1, b"xyz")
    assert asked == [(3 * PAGE, True)]
    assert ram.read_now(RAM + 5 * PAGE, 2) == b"yz"


def test_a_miss_hook_that_waits_cannot_serve_what_does_not(ram: LocalMemory, device: Sample) -> None:
    async def slow(memory: Memory, address: int, write: bool) -> bool:
        return True

    device.dma.on_miss = slow
    with pytest.raises(DmaError, match="in a job first"):
        device.dma.read_now(3 * PAGE, 1)

    def at_once(memory: Memory, address: int, write: bool) -> bool:
        memory.write_now(TABLE + 24, (RAM | 1).to_bytes(8, "little"))
        return True

    device.dma.on_miss = at_once
    assert device.dma.read_now(3 * PAGE, 1) == b"\0"


async def test_a_refusal_and_endless_retries_are_efault(ram: LocalMemory, device: Sample) -> None:
    answers: list[int] = []

    def again(memory: Memory, address: int, write: bool) -> bool:
        answers.append(address)
        return True

    device.dma.on_miss = lambda memory, address, write: False
    assert failure(lambda: device.dma.read_now(3 * PAGE, 1)) == errno.EFAULT
    device.dma.on_miss = again
    assert failure(lambda: device.dma.read_now(3 * PAGE, 1)) == errno.EFAULT
    assert 1 < len(answers) < 100
    with pytest.raises(DmaError):
        await device.dma.read(3 * PAGE, 1)


async def test_a_miss_that_nobody_settles_times_out(client: LocalClient, device: Sample) -> None:
    async def never(memory: Memory, address: int, write: bool) -> bool:
        await asyncio.Event().wait()
        return True

    device.dma.attach_pasid(1, AddressSpace(on_miss=never, miss_timeout=0.01))
    with pytest.raises(DmaError, match=r"not settled in 0\.01 s") as raised:
        await device.dma.read(0x70000, 1, pasid=1)
    assert raised.value.errno == errno.EFAULT


async def test_misses_of_the_clients_map_are_asked_for_too(client: LocalClient, device: Sample) -> None:
    def page_in(memory: Memory, address: int, write: bool) -> bool:
        client.memory.add(address & -PAGE, PAGE)
        return True

    device.dma.on_miss = page_in
    await device.dma.write(0x5008, b"late")
    assert client.memory.read_now(0x5008, 4) == b"late"


# -- process address spaces


async def test_a_pasid_leads_to_its_own_space(ram: LocalMemory, device: Sample) -> None:
    """S4.18."""
    other = LocalMemory()
    other.add(0, PAGE)[0:5] = b"other"
    device.dma.attach_pasid(7, AddressSpace(memory=other))
    device.dma.attach_pasid(8, AddressSpace(translate=lambda memory, address, write: (RAM + address, PAGE)))
    ram.write_now(RAM + 4, b"eight")
    assert await device.dma.read(0, 5, pasid=7) == b"other"
    assert device.dma.read_now(4, 5, pasid=8) == b"eight"
    device.dma.store(0, 4, 1, pasid=7)
    with device.dma.pin(0, 5, pasid=7) as view:
        assert bytes(view.memory) == b"\x01\0\0\0r"
    other.close()


def test_an_unknown_or_detached_pasid_is_enoent(ram: LocalMemory, device: Sample) -> None:
    assert failure(lambda: device.dma.read_now(0, 1, pasid=3)) == errno.ENOENT
    device.dma.attach_pasid(3, AddressSpace())
    assert device.dma.read_now(RAM, 1, pasid=3) == b"\0"
    device.dma.detach_pasid(3)
    assert failure(lambda: device.dma.read_now(RAM, 1, pasid=3)) == errno.ENOENT
    assert failure(lambda: device.dma.detach_pasid(3)) == errno.ENOENT
    for pasid in (-1, 1 << 20):
        assert failure(lambda pasid=pasid: device.dma.attach_pasid(pasid, AddressSpace())) == errno.EINVAL
