"""DMA through the contract: refused without a client, without bus mastering, and while the device is stopped."""

import errno

import pytest

from vfuserver import DmaError
from vfuserver.testing.local_client import LocalClient

from .conftest import Sample


def refused(device: Sample) -> int:
    with pytest.raises(DmaError) as raised:
        device.dma.read_now(0x1000, 4)
    return raised.value.errno


def test_no_client_is_enodev(device: Sample) -> None:
    assert refused(device) == errno.ENODEV


def test_bus_mastering_off_is_eperm(client: LocalClient, device: Sample) -> None:
    """S2.15."""
    client.memory.add(0x1000, 0x1000)
    client.enable(0x0003)
    assert refused(device) == errno.EPERM
    client.enable()
    assert device.dma.read_now(0x1000, 4) == bytes(4)


def test_stopped_device_is_ebusy(client: LocalClient, device: Sample) -> None:
    """S3.9, S4.12."""
    device.stop()
    assert refused(device) == errno.EBUSY


def test_unmapped_memory_is_efault(client: LocalClient, device: Sample) -> None:
    assert refused(device) == errno.EFAULT


async def test_bytes_arrive_both_ways(client: LocalClient, device: Sample) -> None:
    ram = client.memory.add(0x1000, 0x1000)
    ram[0:5] = b"hello"
    assert await device.dma.read(0x1000, 5) == b"hello"
    await device.dma.write(0x1100, b"world")
    device.dma.write_now(0x1200, b"now")
    assert (ram[0x100:0x105], ram[0x200:0x203]) == (b"world", b"now")
    assert device.dma.outstanding == 0


def test_detached_device_has_no_memory(device: Sample) -> None:
    with LocalClient(device) as client:
        client.enable()
        client.memory.add(0x1000, 0x1000)
        assert device.dma.read_now(0x1000, 4) == bytes(4)
    assert refused(device) == errno.ENODEV


async def test_quiesce_stops_and_waits_for_dma(client: LocalClient, device: Sample) -> None:
    """S3.10."""
    await device.quiesce()
    assert refused(device) == errno.EBUSY
