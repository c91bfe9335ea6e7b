"""What the contract shows of a device: regions, interrupts, configuration space, the gate."""

import pytest

from vfuserver import CommandError, PciDevice, ResetReason
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import ABSENT, DeviceFlags, Irq, IrqFlags, RegionFlags

from .conftest import Sample

READ_WRITE = RegionFlags.READ | RegionFlags.WRITE
MASKABLE = IrqFlags.EVENTFD | IrqFlags.MASKABLE


def test_regions_are_the_bars_and_configuration_space(device: PciDevice) -> None:
    sizes = [region.size for region in device.regions]
    assert sizes == [4096, 16, 0, 0, 4096, 0, 0, 256, 0]
    assert device.regions[6] is ABSENT
    assert {region.flags for region in device.regions if region.size} == {READ_WRITE}
    assert device.device_flags == DeviceFlags.PCI | DeviceFlags.RESET


def test_interrupt_infos_are_maskable_and_can_be_resized(device: PciDevice) -> None:
    """Field notes C.6; S2.21."""
    pulse = Irq(1, IrqFlags.EVENTFD)
    assert tuple(device.irqs) == (Irq(1, MASKABLE), Irq(4, MASKABLE), Irq(3, MASKABLE), pulse, pulse)


def test_interrupt_pin_is_the_declared_one(client: LocalClient) -> None:
    assert client.read_config(0x3D, 1) == b"\x02"


def test_memory_bar_while_disabled_reads_ones_and_drops_writes(device: PciDevice) -> None:
    """S0.16."""
    with LocalClient(device) as client:
        client.write(0, 0, 0x77)
        assert client.read(0, 0) == 0xFFFF_FFFF
        assert device.gate.refused == 2
        client.enable(0x0002)
        assert client.read(0, 0) == 0x55


def test_io_bar_follows_its_own_bit(device: PciDevice) -> None:
    """S0.16."""
    with LocalClient(device) as client:
        client.enable(0x0002)
        assert client.read(1, 0, 1) == 0xFF
        client.enable(0x0001)
        assert client.read(1, 0, 1) == 0
        assert client.read(0, 0) == 0xFFFF_FFFF


def test_device_in_d3hot_answers_nothing_and_is_reset_on_the_way_back(client: LocalClient) -> None:
    """S2.23."""
    client.write(0, 0, 0x77)
    control = next(at for at in range(0x40, 0x100, 4) if client.read_config(at, 1) == b"\x01") + 4
    client.write_config(control, b"\x03")
    assert client.read(0, 0) == 0xFFFF_FFFF
    client.write_config(control, b"\x00")
    client.enable()
    assert client.read(0, 0) == 0x55


def test_access_beyond_a_region_is_einval(client: LocalClient) -> None:
    with pytest.raises(CommandError) as raised:
        client.read(0, 4094, 4)
    assert raised.value.errno == 22


def test_access_is_described_by_register_and_place(device: PciDevice) -> None:
    assert device.describe_access(0, 0) == "BAR0+0x0 (scratch)"
    assert device.describe_access(0, 0x18) == "BAR0+0x18"
    assert device.describe_access(4, 0x4) == "BAR4+0x4 (msix_table)"
    assert device.describe_access(7, 0x40) == "config+0x40"
    assert device.describe_access(3, 0) == "BAR3+0x0"


def test_reset_brings_everything_back(client: LocalClient, device: PciDevice) -> None:
    """S2.30."""
    client.write(0, 0, 0x77)
    client.write_config(0x10, b"\xff\xff\xff\xff")
    device.reset(ResetReason.MESSAGE)
    assert client.read_config(0x04, 2) == b"\0\0"
    assert client.read_config(0x10, 4) == bytes(4)
    client.enable()
    assert client.read(0, 0) == 0x55


def test_vendor_write_reaches_the_device() -> None:
    class Listening(Sample):
        heard: tuple[int, bytes] = (0, b"")

        def on_vendor_write(self, offset: int, data: bytes) -> None:
            self.heard = offset, data

    device = Listening()
    with LocalClient(device) as client:
        at = next(at for at in range(0x40, 0x100, 4) if client.read_config(at, 1) == b"\x09")
        client.write_config(at + 3, b"\x42")
        assert device.heard == (3, b"\x42")
        assert client.read_config(at + 3, 1) == b"\x42"
    device.close()
