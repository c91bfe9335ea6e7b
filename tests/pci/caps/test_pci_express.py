from collections.abc import Callable

import pytest

from vfuserver.pci import ConfigSpace
from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.caps.latency_tolerance import LatencyTolerance
from vfuserver.pci.caps.pci_express import DeviceStatus, PciExpress, PortType
from vfuserver.pci.caps.process_address_space import ProcessAddressSpace
from vfuserver.vfio import ResetReason

Make = Callable[..., ConfigSpace]
Events = list[tuple[object, ...]]

DEVICE_CONTROL, DEVICE_STATUS, DEVICE_CAPABILITIES_2, DEVICE_CONTROL_2 = 0x48, 0x4A, 0x64, 0x68


def test_express_is_60_bytes_in_4096(make: Make) -> None:
    """S2.9: version 2 has 0x3c bytes; S2.5: PCIe has 4096."""
    config = make(PciExpress())
    assert (PciExpress().length, config.size, config.read(0x42, 2)) == (0x3C, 4096, 0x0002)


@pytest.mark.parametrize("flr", [False, True])
def test_express_all_ones_changes_control_registers_only(make: Make, flr: bool) -> None:
    """S2.25: DEVCTL except PHANTOM (and FLR), DEVCTL2 except ARI; link, slot and root registers stay."""
    config = make(PciExpress(flr=flr))
    before = config.access(0x40, 60, None)
    assert isinstance(before, bytes)
    expected = bytearray(before)
    expected[8:10] = (0x7DFF).to_bytes(2, "little")
    expected[0x28:0x2A] = (0xFFDF).to_bytes(2, "little")
    live = config.find(PciExpress)
    assert live is not None
    for offset in range(0x40, 0x7C, 2):
        if offset != DEVICE_CONTROL:
            config.write(offset, 2, 0xFFFF)
    config.write(DEVICE_CONTROL, 2, 0x7FFF)
    assert live.snapshot() == bytes(expected)


def test_device_control_reset_values_are_the_specification_s(make: Make) -> None:
    """PCIe 5.0, 7.5.3.4: relaxed ordering and no snoop on, payload 128, read requests 512."""
    assert make(PciExpress()).read(DEVICE_CONTROL, 2) == 0x2810


def test_device_control_sizes_read_back(make: Make) -> None:
    """S2.25: MPS and MRRS read as written."""
    config = make(PciExpress())
    config.write(DEVICE_CONTROL, 2, 0x50A0)
    assert config.read(DEVICE_CONTROL, 2) == 0x50A0


def test_device_status_low_four_bits_cleared_by_one(make: Make) -> None:
    """S2.25: DEVSTA's low four bits are write-1-to-clear."""
    config = make(PciExpress())
    live = config.find(PciExpress)
    assert live is not None
    live.set("device_status", 0x003F)
    config.write(DEVICE_STATUS, 2, 0)
    assert config.read(DEVICE_STATUS, 2) == 0x003F
    config.write(DEVICE_STATUS, 2, DeviceStatus.FATAL_ERROR)
    assert config.read(DEVICE_STATUS, 2) == 0x003B
    config.write(DEVICE_STATUS, 2, 0xFFFF)
    assert config.read(DEVICE_STATUS, 2) == 0x0030


@pytest.mark.parametrize(("offset", "width", "value"), [(0x48, 2, 0xA810), (0x49, 1, 0x80), (0x48, 4, 0x8000)])
def test_flr_runs_reset_before_the_write_returns(
    make: Make, events: Events, offset: int, width: int, value: int
) -> None:
    """S2.26: the full reset path; the bit reads 0 at once; by any access that reaches it."""
    config = make(PciExpress(flr=True))
    config.write(0x10, 4, 0xFEB0_0000)
    config.write(offset, width, value)
    assert events == [("reset", ResetReason.FLR)]
    assert config.image == config.reset_image


def test_flr_without_the_capability_ignored(make: Make, events: Events) -> None:
    """S2.26: without DEVCAP.FLR the bit does nothing and reads 0."""
    config = make(PciExpress())
    config.write(DEVICE_CONTROL, 2, 0xA810)
    assert config.read(DEVICE_CONTROL, 2) == 0x2810
    assert events == []


def test_flr_bit_in_device_capabilities_as_declared(make: Make) -> None:
    assert make(PciExpress(flr=True)).read(0x44, 4) == 0x1000_8000
    assert make(PciExpress()).read(0x44, 4) == 0x0000_8000


def test_port_type_as_declared(make: Make) -> None:
    assert make(PciExpress(port_type=PortType.ROOT_COMPLEX_ENDPOINT)).read(0x42, 2) == 0x0092


@pytest.mark.parametrize(
    ("others", "bits"),
    [
        ([], 0),
        ([LatencyTolerance(at=0x100)], 0x0000_0800),
        ([ProcessAddressSpace(at=0x100)], 0x0070_0000),
        ([LatencyTolerance(at=0x100), ProcessAddressSpace()], 0x0070_0800),
    ],
)
def test_device_capabilities_2_say_what_other_capabilities_imply(
    make: Make, others: list[ExtendedCapability], bits: int
) -> None:
    """S2.25, S2.27 (PCIe 5.0, 7.5.3.15): LTR; for PASID the extended format and one end-to-end prefix."""
    assert make(PciExpress(), *others).read(DEVICE_CAPABILITIES_2, 4) == bits
    assert make(PciExpress(second=2), *others).read(DEVICE_CAPABILITIES_2, 4) == bits | 2
