"""Every way of DMA that a model has: through the contract, and asked each time whether it may (S4.12, S2.15, S3.9)."""

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Any

import pytest

from vfuserver import DmaError, View
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import ResetReason

from .conftest import Sample

RAM = 0x1000
PAGE = 0x1000

AT_ONCE: dict[str, Callable[[Any], object]] = {
    "read_now": lambda dma: dma.read_now(RAM, 4),
    "write_now": lambda dma: dma.write_now(RAM, b"data"),
    "readv_now": lambda dma: dma.readv_now([(RAM, 4)]),
    "writev_now": lambda dma: dma.writev_now([(RAM, 4)], b"data"),
    "copy_now": lambda dma: dma.copy_now(RAM, RAM + 64, 4),
    "load": lambda dma: dma.load(RAM, 4),
    "store": lambda dma: dma.store(RAM, 4, 1),
    "swap": lambda dma: dma.swap(RAM, 4, 1),
    "fetch_add": lambda dma: dma.fetch_add(RAM, 4, 1),
    "fetch_or": lambda dma: dma.fetch_or(RAM, 4, 1),
    "fetch_and": lambda dma: dma.fetch_and(RAM, 4, 1),
    "compare_exchange": lambda dma: dma.compare_exchange(RAM, 4, 0, 1),
    "pin": lambda dma: dma.pin(RAM, 4),
}
AWAITED: dict[str, Callable[[Any], Any]] = {
    "read": lambda dma: dma.read(RAM, 4),
    "write": lambda dma: dma.write(RAM, b"data"),
    "readv": lambda dma: dma.readv([(RAM, 4)]),
    "writev": lambda dma: dma.writev([(RAM, 4)], b"data"),
    "copy": lambda dma: dma.copy(RAM, RAM + 64, 4),
    "preadv": lambda dma: dma.preadv(0, [(RAM, 4)], 0),
    "pwritev": lambda dma: dma.pwritev(0, [(RAM, 4)], 0),
}


async def refused(device: Sample, name: str) -> int:
    """The errno of a call that must fail."""
    with pytest.raises(DmaError) as raised:
        await call(device, name)
    return raised.value.errno


async def call(device: Sample, name: str) -> None:
    if name in AT_ONCE:
        AT_ONCE[name](device.dma)
    else:
        await AWAITED[name](device.dma)


def test_the_tables_name_every_call(device: Sample) -> None:
    others = {"attach", "detach", "attach_pasid", "detach_pasid", "drain", "outstanding", "translate", "on_miss"}
    assert {name for name in dir(device.dma) if not name.startswith("_")} - others == {*AT_ONCE, *AWAITED}


@pytest.mark.parametrize("name", [*AT_ONCE, *AWAITED])
async def test_every_call_asks_client_master_state_pasid_and_map(device: Sample, name: str) -> None:
    assert await refused(device, name) == errno.ENODEV
    with LocalClient(device) as client:
        client.memory.add(RAM, PAGE)
        assert await refused(device, name) == errno.EPERM
        client.enable()
        device.stop()
        assert await refused(device, name) == errno.EBUSY
        device.run()
        client.memory.remove(RAM, PAGE)
        assert await refused(device, name) == errno.EFAULT
    assert await refused(device, name) == errno.ENODEV
    assert device.dma.outstanding == 0


def test_atomics_of_a_ring(client: LocalClient, device: Sample) -> None:
    ram, dma = client.memory.add(RAM, PAGE), device.dma
    dma.store(RAM, 8, 0x1122_3344_5566_7788)
    assert ram[0:8] == bytes.fromhex("8877665544332211")
    assert dma.load(RAM + 6, 2) == 0x1122
    assert dma.fetch_add(RAM + 8, 2, 0xFFFF) == 0
    assert dma.fetch_add(RAM + 8, 2, 2) == 0xFFFF
    assert (dma.fetch_or(RAM + 8, 1, 0x70), dma.fetch_and(RAM + 8, 1, 0x30)) == (1, 0x71)
    assert (dma.swap(RAM + 8, 4, 5), dma.load(RAM + 8, 4)) == (0x30, 5)
    assert dma.compare_exchange(RAM + 8, 4, 6, 7) == 5
    assert dma.compare_exchange(RAM + 8, 4, 5, 7) == 5
    assert dma.load(RAM + 8, 4) == 7
    with pytest.raises(DmaError, match="not aligned") as raised:
        dma.load(RAM + 2, 4)
    assert raised.value.errno == errno.EINVAL


async def test_lists_copies_and_files(client: LocalClient, device: Sample) -> None:
    ram, dma = client.memory.add(RAM, PAGE), device.dma
    pieces = [(RAM, 3), (RAM + 0x100, 5)]
    await dma.writev(pieces, b"abcdefgh")
    assert ram[0x100:0x105] == b"defgh"
    assert await dma.readv(pieces) == dma.readv_now(pieces) == b"abcdefgh"
    await dma.copy(RAM + 0x100, RAM + 0x200, 5)
    dma.copy_now(RAM + 0x200, RAM + 0x300, 2)
    assert ram[0x200:0x205] + ram[0x300:0x303] == b"defghde\0"
    fd = os.memfd_create("disk", os.MFD_CLOEXEC)
    assert await dma.pwritev(fd, pieces, 0) == 8
    assert await dma.preadv(fd, [(RAM + 0x400, 100)], 2) == 6
    assert ram[0x400:0x407] == b"cdefgh\0"
    os.close(fd)


def test_a_view_tells_that_it_is_wanted(client: LocalClient, device: Sample) -> None:
    ram = client.memory.add(RAM, PAGE)
    wanted: list[View] = []
    with device.dma.pin(RAM, 16, writable=True, on_revoke=wanted.append) as view:
        view.memory[0:2] = b"hi"
        done = client.memory.ask_back(RAM, RAM)
        assert (wanted, view.wanted, done.done()) == ([view], True, False)
    assert done.done()
    assert ram[0:2] == b"hi"
    with device.dma.pin(RAM, 16) as view:
        assert not view.writable


async def test_a_reset_ends_a_job_that_holds_a_view_or_reads_a_file(client: LocalClient, device: Sample) -> None:
    """S2.29: what a job had of the client's memory is given back before reset() returns."""
    client.memory.add(RAM, 1 << 20)
    fd = os.memfd_create("disk", os.MFD_CLOEXEC)
    os.pwrite(fd, b"\xff" * (1 << 20), 0)

    async def work() -> None:
        with device.dma.pin(RAM, 16):
            while True:
                await device.dma.preadv(fd, [(RAM, 1 << 20)], 0)

    device.activity.start(work(), "job")
    for _ in range(4):
        await asyncio.sleep(0)
    assert (client.memory.ioas.pins, device.dma.outstanding) == (1, 1)
    device.reset(ResetReason.MESSAGE)
    assert (client.memory.ioas.pins, device.dma.outstanding) == (0, 0)
    os.close(fd)
    client.memory.remove(RAM, 1 << 20)
    await asyncio.sleep(0.01)
