"""The same devices where memory is reached otherwise: through a vIOMMU, by messages only, without descriptors."""

import errno
import re

import pytest

from tests.engines import CHOSEN
from tests.system.rig import EDU, IDIO, TESTDEV, rig
from vfuserver.engine.choice import DEFAULT

pytestmark = pytest.mark.guest

FAILED = 0x80000000
EMPTY_UNMAP = re.compile(r"vfio_container_dma_unmap\(.*\) = -2 |async request:? command 3 error No such file")
"""QEMU unmaps ranges that hold nothing when the guest turns translation on, and prints the ENOENT it gets (S1.10)."""
TOLD = re.compile(
    r"libvfio-user: (failed to remove DMA region .*|msg0x\w+: cmd 3 failed): No such file|more lines about this client"
)
"""libvfio-user says so in our log, too, until the log withholds it; our own engine does not."""


async def test_vfio_in_the_guest_moves_data_and_gets_msi_through_a_viommu(caplog: pytest.LogCaptureFixture) -> None:
    """vfio-pci, type1, MSI: maps come one page at a time and go in ranges that cover many (field-notes G).

    Every byte of testdev's DMA as well; without vfio the guest's translation lets nothing through, and after a reset
    of the machine, which switches translation off and on, all is as before (S1.10).
    """
    async with rig("q35-viommu", {EDU: {}, TESTDEV: {}}, spare=["vfio-pci", "vfio_iommu_type1"]) as running:
        await running.guest.check("modprobe vfio-pci && modprobe vfio_iommu_type1")
        await running.guest.check(f"pcitool bind {running.bdf(EDU)} vfio-pci")
        for _ in range(3):
            printed = (await running.pcitool("vfio", EDU)).lower()
            assert "verified 4096 bytes" in printed
            assert "msi received" in printed
        for _ in range(2):
            await running.guest.check(f"pcitool bind {running.bdf(TESTDEV)} vfio-pci")
            for _ in range(2):
                assert "verified" in await running.pcitool("testdev-vfio", TESTDEV)
            await running.guest.check(f"echo {running.bdf(TESTDEV)} > /sys/bus/pci/drivers/vfio-pci/unbind")
            assert await running.copy(0x100000, 0x200000, 64) == FAILED | errno.EFAULT
            await running.guest.reset()
            await running.find()
            await running.guest.check("modprobe vfio-pci && modprobe vfio_iommu_type1")
        unexpected = [line for line in running.guest.qemu_log.splitlines() if not EMPTY_UNMAP.search(line)]
    assert unexpected == []
    told = [record.message for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert [line for line in told if CHOSEN == DEFAULT or not TOLD.search(line)] == []


async def test_message_dma_reaches_memory_that_has_no_descriptor() -> None:
    """Default RAM: DMA_READ and DMA_WRITE, sent after the register write was answered."""
    async with rig("q35-messages", {EDU: {}, TESTDEV: {}}) as running:
        assert "verified 4096 bytes" in (await running.pcitool("phys-dma", EDU)).lower()
        assert "verified" in await running.pcitool("testdev-dma", TESTDEV)
        assert running.guest.qemu_log == ""


async def test_server_without_any_descriptor_serves_registers_interrupts_excepted() -> None:
    """A relay that drops descriptors: accesses and DMA go by messages, as in QEMU's own functional test (C.11)."""
    async with rig("q35-nofds", {EDU: {}, TESTDEV: {}}) as running:
        await running.write(EDU, 0, 0x04, 1)
        assert await running.read(EDU, 0, 0x04) == 0xFFFFFFFE
        await running.write(TESTDEV, 2, 0x2000, 0x5A5A)
        assert await running.read(TESTDEV, 2, 0x2000) == 0x5A5A
        assert "verified 4096 bytes" in (await running.pcitool("phys-dma", EDU)).lower()


async def test_device_on_a_root_port_is_unplugged_and_plugged_again(caplog: pytest.LogCaptureFixture) -> None:
    """No error in either log, and the device keeps its state between its clients.

    A device without MSI-X: QEMU 11.1 aborts itself when any vfio-user device with MSI-X is unplugged, because
    vfio_user_msix_teardown removes the PBA's memory region from a container that it has left already.
    """
    async with rig("q35-hotplug", {EDU: {}, IDIO: {"loopback": "yes"}}, modules=["gpio-pci-idio-16"]) as running:
        guest = running.guest
        for device in (EDU, IDIO, EDU):
            place = f"/sys/bus/pci/devices/{running.bdf(device)}"
            await guest.unplug(device)
            await guest.check(f"[ ! -e {place} ]")
            await guest.plug(running.plugs[device])
            await guest.check(f"for i in $(seq 100); do [ -e {place} ] && exit; sleep 0.1; done; false")
        assert await running.read(EDU, 0, 0) == 0x010000ED
        link = await guest.check(f"readlink /sys/bus/pci/devices/{running.bdf(IDIO)}/driver")
        assert link.endswith("/pci-idio-16")
        assert guest.qemu_log == ""
    bad = [record.message for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert bad == []
