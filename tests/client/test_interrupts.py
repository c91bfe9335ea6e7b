"""Eventfds at the client's end: S2.21, S2.22, field-notes C.6."""

import asyncio
import os

import pytest

from tests.session.device import LittleDevice
from vfuserver.client import Client
from vfuserver.vfio import IrqSetFlags, PciIrq


async def test_armed_interrupts_arrive(client: Client) -> None:
    irqs = await client.arm_msix(40)  # three messages of at most 16 descriptors
    await client.region_write(0, 0x10, (39).to_bytes(4, "little"))
    assert await irqs[39].wait(1) == 1
    assert [irq.take() for irq in irqs] == [0] * 40


async def test_wait_wakes_up_when_the_interrupt_comes(client: Client) -> None:
    irqs = await client.arm_msix(2)
    waiting = asyncio.create_task(irqs[1].wait(1))
    await asyncio.sleep(0)
    await client.region_write(0, 0x10, (1).to_bytes(4, "little"))
    assert await waiting == 1


async def test_wait_for_nothing_times_out(client: Client) -> None:
    (irq,) = await client.arm_msi()
    with pytest.raises(TimeoutError):
        await irq.wait(0.01)


async def test_masking_disarming_and_disabling(client: Client, device: LittleDevice) -> None:
    irqs = await client.arm_msix(3)
    await client.mask(PciIrq.MSIX, 0, 2)
    await client.unmask(PciIrq.MSIX, 0, chosen=[False, True])
    await client.disarm(PciIrq.MSIX, 2, 1)
    assert device.client is not None
    assert [device.client.interrupts.trigger(PciIrq.MSIX, vector) for vector in range(3)] == [False, True, False]
    await client.trigger(PciIrq.MSIX, 0, 3)
    assert [irq.take() for irq in irqs] == [1, 2, 0]
    await client.disable(PciIrq.MSIX)
    assert not device.client.interrupts.armed(PciIrq.MSIX)


async def test_kvm_style_unmask_eventfd_reaches_the_device(client: Client, device: LittleDevice) -> None:
    """field-notes C.1: with a loop, a signal on the unmask eventfd of INTx makes the device look at its line."""
    line = await client.arm_intx()
    (resample,) = await client.arm(PciIrq.INTX, 1, action=IrqSetFlags.ACTION_UNMASK)
    device.log.clear()
    os.eventfd_write(resample.fd, 1)
    while ("ready", PciIrq.INTX, 0, 1) not in device.log:
        await asyncio.sleep(0)
    assert line.take() == 0
