"""Models on this engine, through our client: registers, configuration space, interrupts, memory, reset (issue 7)."""

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine.libvfio_user.conftest import Bench, migrates
from tests.lspci import Lspci
from vfuserver import Bar, KiB, Later, PciDevice, PciIdentity, ResetReason
from vfuserver.client import Client, GuestMemory
from vfuserver.errors import CommandError
from vfuserver.pci.lspci import render
from vfuserver.session import SessionOptions
from vfuserver.vfio import IrqSetFlags, PciIrq

BAR0, CONFIG = 0, 7
IOVA, SIZE = 0x10_0000, 0x1_0000


async def number(client: Client, region: int, offset: int, width: int = 4) -> int:
    return int.from_bytes(await client.region_read(region, offset, width), "little")


async def put(client: Client, region: int, offset: int, value: int, width: int = 4) -> None:
    await client.region_write(region, offset, value.to_bytes(width, "little"))


async def test_registers_of_edu_are_served_by_its_own_table(bench: Bench) -> None:
    client = await bench.client(bench.add("edu"))
    assert await number(client, BAR0, 0) == 0x0100_00ED
    await put(client, BAR0, 4, 0x1234_5678)
    assert await number(client, BAR0, 4) == 0xEDCB_A987
    with pytest.raises(CommandError) as refused:
        await client.region_read(BAR0, 4, 1)
    assert refused.value.errno == errno.EINVAL


class Bells(PciDevice):
    """Asks for writes that came together, which this library never shows."""

    identity = PciIdentity(vendor=0x1234, device=0x000C)
    mmio = Bar(0, size=4 * KiB)
    latest = mmio.rw(0x00)
    rings = mmio.wo(0x04)
    sum_of_rings = mmio.ro(0x08)

    @latest.on_latest_write
    def on_latest(self, value: int) -> int:
        return value + 1

    @rings.on_writes
    def on_rings(self, values: list[int]) -> None:
        self.sum_of_rings += len(values) * sum(values)


async def test_hook_of_joined_writes_is_called_for_each_of_them(bench: Bench) -> None:
    client = await bench.client(bench.add(Bells()))
    for value in (3, 4):
        await client.region_write(BAR0, 0, value.to_bytes(4, "little"), posted=True)
        await client.region_write(BAR0, 4, value.to_bytes(4, "little"), posted=True)
    assert await number(client, BAR0, 0) == 5
    assert await number(client, BAR0, 8) == 7


async def test_every_read_of_gpio_runs_its_hook(bench: Bench) -> None:
    client = await bench.client(bench.add("gpio-idio-16"))
    await put(client, 2, 0, 0x5A, 1)
    assert await number(client, 2, 0, 1) == 0x5A


async def test_configuration_space_is_our_own_bytes(bench: Bench, lspci: Lspci) -> None:
    """Capabilities included: the library serves none of them."""
    path = bench.add("testdev")
    client = await bench.client(path)
    config = await client.region_read(CONFIG, 0, 4096)
    decoded = lspci(render(config), "-vvv", "-nn")
    for words in ("[1234:7e57]", "MSI-X: Enable- Count=8", "Device Serial Number 01-23-45-67-89-ab-cd-ef", "FLReset+"):
        assert words in decoded


async def test_function_level_reset_comes_through_configuration_space(bench: Bench) -> None:
    client = await bench.client(bench.add("testdev"))
    await put(client, BAR0, 4, 0xABCD)
    config = await client.region_read(CONFIG, 0, 256)
    at = config[0x34]
    while config[at] != 0x10:
        at = config[at + 1]
    await put(client, CONFIG, at + 8, 0x8000, 2)
    await client.enable()
    assert await number(client, BAR0, 4) == 0


async def test_register_that_answers_later_delays_its_own_client_only(bench: Bench) -> None:
    first, second = bench.add("testdev"), bench.add("edu")
    slow, quick = await bench.client(first), await bench.client(second)
    await put(slow, BAR0, 0x44, 500_000)
    await put(slow, BAR0, 0x44 + 4, 0)
    started = asyncio.get_running_loop().time()
    reading = asyncio.ensure_future(number(slow, BAR0, 0x48))
    for _ in range(5):
        assert await number(quick, BAR0, 0) == 0x0100_00ED
    assert not reading.done()
    assert await reading == 0
    assert asyncio.get_running_loop().time() - started >= 0.5


async def test_answer_after_the_deadline_is_etimedout(bench: Bench) -> None:
    client = await bench.client(bench.add("testdev", SessionOptions(deadline=0.1)))
    await put(client, BAR0, 0x44, 1_000_000)
    with pytest.raises(CommandError) as late:
        await number(client, BAR0, 0x48)
    assert late.value.errno == errno.ETIMEDOUT
    assert await number(client, BAR0, 0) == 0x5453_4554


async def test_interrupts_are_sent_and_masked_ones_wait(bench: Bench) -> None:
    client = await bench.client(bench.add("testdev"))
    vectors = await client.arm_msix(8)
    await put(client, CONFIG, await _msix(client) + 2, 0x8000, 2)
    await put(client, BAR0, 0x18, 3)
    assert await vectors[3].wait(3) == 1
    await client.set_irqs(PciIrq.MSIX, IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_MASK, 2, 1)
    await put(client, BAR0, 0x18, 2)
    assert await number(client, BAR0, 0) == 0x5453_4554
    assert vectors[2].take() == 0
    await client.set_irqs(PciIrq.MSIX, IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_UNMASK, 2, 1)
    assert await vectors[2].wait(3) == 1


async def _msix(client: Client) -> int:
    """Where the MSI-X capability is; its table's vectors are unmasked on the way."""
    config = await client.region_read(CONFIG, 0, 256)
    at = config[0x34]
    while config[at] != 0x11:
        at = config[at + 1]
    for vector in range(8):
        await put(client, 4, 16 * vector + 12, 0)
    return at


async def _dma(client: Client, command: int, source: int, destination: int, length: int) -> int:
    await put(client, BAR0, 0x20, source, 8)
    await put(client, BAR0, 0x28, destination, 8)
    await put(client, BAR0, 0x30, length)
    await put(client, BAR0, 0x34, command)
    async with asyncio.timeout(5):
        while (status := await number(client, BAR0, 0x38)) == 1:
            await asyncio.sleep(0.001)
    return status


@pytest.mark.parametrize("share", [True, False])
async def test_dma_reaches_memory_by_map_and_by_messages(bench: Bench, share: bool) -> None:
    """By messages while nothing of the client's waits: over the twin socket."""
    client = await bench.client(bench.add("testdev"), proposal={"max_msg_fds": 8, "twin_socket": {"supported": True}})
    with GuestMemory(SIZE) as memory:
        await client.dma_map(IOVA, memory, share=share)
        memory.write(0, bytes(range(256)) * 16)
        assert await _dma(client, 1, IOVA, IOVA + 0x8000, 4096) == 2
        assert memory.read(0x8000, 4096) == bytes(range(256)) * 16
        await client.dma_unmap(IOVA, SIZE)
        assert await _dma(client, 1, IOVA, IOVA + 0x8000, 16) == 0x8000_0000 | errno.EFAULT


async def test_dma_by_messages_without_a_twin_socket_is_refused(bench: Bench) -> None:
    """A command that crosses one is taken for its reply, and QEMU answers none while it waits for a reply of ours."""
    client = await bench.client(bench.add("testdev"))
    with GuestMemory(SIZE) as memory:
        await client.dma_map(IOVA, memory, share=False)
        assert await _dma(client, 1, IOVA, IOVA + 0x8000, 16) == 0x8000_0000 | errno.EFAULT


async def test_written_pages_are_reported_and_marked_once(bench: Bench) -> None:
    """Writes are logged by our own space, and the library answers from its log."""
    if not migrates():
        pytest.skip("this library has DIRTY_PAGES, of migration's version 1, and no DMA logging")
    client = await bench.client(bench.add("testdev"))
    with GuestMemory(SIZE) as memory:
        await client.dma_map(IOVA, memory)
        await client.dma_logging_start()
        assert await _dma(client, 4, 0, IOVA + 0x3800, 0x1000) == 2
        assert await client.dma_logging_report(IOVA, SIZE) == (0b11000).to_bytes(8, "little")
        assert await client.dma_logging_report(IOVA, SIZE) == bytes(8)
        await client.dma_logging_stop()


async def test_reset_by_message_keeps_eventfds(bench: Bench) -> None:
    """S2.30."""
    client = await bench.client(bench.add("testdev"))
    line = await client.arm_intx()
    await put(client, BAR0, 4, 7)
    await client.reset()
    await client.enable()
    assert await number(client, BAR0, 4) == 0
    await put(client, BAR0, 0x18, 0)
    assert await line.wait(3) == 1


class SlowReset(PciDevice):
    """A device whose reset takes a tenth of a second."""

    identity = PciIdentity(0x1234, 0x5678)
    registers = Bar(0, size=4 * KiB)
    scratch = registers.rw(0)
    after = 0.1

    def reset(self, reason: ResetReason) -> Later | None:
        """Done later."""
        super().reset(reason)
        if self.after <= 0:
            return None
        later = Later("slow reset")
        asyncio.get_running_loop().call_later(self.after, later.set_result, None)
        return later


async def test_reset_that_takes_time_is_put_off_by_quiescing(bench: Bench) -> None:
    client = await bench.client(bench.add(SlowReset()))
    other = await bench.client(bench.add("edu"))
    started = asyncio.get_running_loop().time()
    resetting = asyncio.ensure_future(client.reset())
    behind = asyncio.ensure_future(number(client, CONFIG, 0))
    assert await number(other, BAR0, 0) == 0x0100_00ED
    assert not behind.done()
    await resetting
    assert asyncio.get_running_loop().time() - started >= 0.1
    assert await behind == 0x5678_1234


async def test_reset_that_never_ends_is_etimedout(bench: Bench) -> None:
    device = SlowReset()
    device.after = 60
    client = await bench.client(bench.add(device, SessionOptions(deadline=0.1)))
    with pytest.raises(CommandError) as late:
        await client.reset()
    assert late.value.errno == errno.ETIMEDOUT
    assert await number(client, CONFIG, 0) == 0x5678_1234
    device.after = 0


async def test_doorbell_has_a_new_eventfd_for_every_client(bench: Bench) -> None:
    path = bench.add("testdev")
    for _ in range(2):
        async with await Client.connect(path) as client:
            await client.enable()
            before = await number(client, BAR0, 0x14)
            io_fds = await client.region_io_fds(BAR0)
            (one,) = io_fds.sub_regions
            assert one.ring()
            async with asyncio.timeout(3):
                while await number(client, BAR0, 0x14) != before + 1:
                    await asyncio.sleep(0.001)


async def test_mappable_areas_are_the_region_s_file(bench: Bench) -> None:
    client = await bench.client(bench.add("testdev"))
    info = await client.region_info(2)
    assert [(area.offset, area.size) for area in info.areas] == [(0x1000, 0x3F000), (0x80000, 0x80000)]
    with info.mmap(info.areas[1]) as pages:
        assert pages[:15] == b"vfuserver-bar2!"
        pages[16:20] = b"seen"
    assert await client.region_read(2, 0x80010, 4) == b"seen"
    info.close()


async def test_hook_that_fails_is_eio_and_the_device_lives(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """No exception crosses C."""

    class Broken(PciDevice):
        identity = PciIdentity(0x1234, 0x5679)
        registers = Bar(0, size=4 * KiB)
        broken = registers.rw(0)

        @broken.on_read
        def fail(self) -> int:
            raise KeyError("a model's own bug")

    client = await bench.client(bench.add(Broken()))
    with pytest.raises(CommandError) as refused:
        await number(client, BAR0, 0)
    assert refused.value.errno == errno.EIO
    assert "BAR0+0x0 (broken)" in caplog.text
    assert "a model's own bug" in caplog.text
    assert await number(client, CONFIG, 0) == 0x5679_1234


def test_serve_takes_the_engine_and_stops_on_sigterm(folder: Path) -> None:
    path, program = folder / "s", Path(sys.executable).parent / "vfuserver"
    command: list[Any] = [program, "serve", "edu", "--engine", "libvfio-user", "--migration", "none", "--socket", path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert server.stdout.readline() == f"ready edu {path}\n"
        server.terminate()
        _, log = server.communicate(timeout=10)
    assert (server.returncode, "Traceback" in log, path.exists()) == (0, False, False)


async def test_eventfd_that_unmasks_is_heard_until_the_index_is_disabled(bench: Bench) -> None:
    """How QEMU with KVM serves a level interrupt (field-notes C.1); the library would unmask at once, and forget it."""
    client = await bench.client(bench.add("edu"))
    line = await client.arm_intx()
    (resample,) = await client.arm(PciIrq.INTX, 1, action=IrqSetFlags.ACTION_UNMASK)
    await client.set_irqs(PciIrq.INTX, IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_MASK, 0, 1)
    await put(client, BAR0, 0x60, 1)
    assert await number(client, BAR0, 0x24) == 1
    assert line.take() == 0
    for _ in range(2):
        os.eventfd_write(resample.fd, 1)
        assert await line.wait(3) == 1
    await client.disable(PciIrq.INTX)
    line = await client.arm_intx()
    line.take()
    os.eventfd_write(resample.fd, 1)
    assert await number(client, BAR0, 0x24) == 1
    assert line.take() == 0
