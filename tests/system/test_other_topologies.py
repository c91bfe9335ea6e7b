"""The same devices where memory is reached otherwise: through a vIOMMU, by messages only, without descriptors."""

import re

import pytest

from tests.system.rig import EDU, IDIO, TESTDEV, rig

pytestmark = pytest.mark.guest

EMPTY_UNMAP = re.compile(r"vfio_container_dma_unmap\(.*\) = -2 ")
"""QEMU unmaps ranges that hold nothing when the guest turns translation on, and prints the ENOENT it gets (S1.10)."""


async def test_vfio_in_the_guest_moves_data_and_gets_msi_through_a_viommu(caplog: pytest.LogCaptureFixture) -> None:
    """vfio-pci, type1, MSI: maps come one page at a time and go in ranges that cover many (field-notes G)."""
    async with rig("q35-viommu", {EDU: {}}, spare=["vfio-pci", "vfio_iommu_type1"]) as running:
        await running.guest.check("modprobe vfio-pci && modprobe vfio_iommu_type1")
        await running.guest.check(f"pcitool bind {running.bdf(EDU)} vfio-pci")
        for _ in range(3):
            printed = (await running.pcitool("vfio", EDU)).lower()
            assert "verified 4096 bytes" in printed
            assert "msi received" in printed
        unexpected = [line for line in running.guest.qemu_log.splitlines() if not EMPTY_UNMAP.search(line)]
    assert unexpected == []
    assert [record.message for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


async def test_message_dma_reaches_memory_that_has_no_descriptor() -> None:
    """Default RAM: DMA_READ and DMA_WRITE, sent after the register write was answered."""
    async with rig("q35-messages", {EDU: {}}) as running:
        assert "verified 4096 bytes" in (await running.pcitool("phys-dma", EDU)).lower()
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
