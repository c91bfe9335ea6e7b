from collections.abc import Callable, Sequence

import pytest

from vfuserver.errors import DeclarationError
from vfuserver.pci import ConfigSpace, ExtendedCapability, Field, walk, walk_extended
from vfuserver.pci.caps.device_serial_number import DeviceSerialNumber
from vfuserver.pci.caps.msi import Msi
from vfuserver.pci.caps.pci_express import PciExpress
from vfuserver.pci.caps.power_management import PowerManagement
from vfuserver.pci.caps.vendor_specific import VendorSpecific

Make = Callable[..., ConfigSpace]


class Unregistered(ExtendedCapability):
    """An extended capability that `pci/caps` does not have; DVSEC's id."""

    id = 0x23

    def body(self) -> Sequence[Field]:
        return ()


def test_capabilities_without_offset_follow_one_another_dword_aligned(make: Make) -> None:
    config = make(PowerManagement(), Msi(address64=False, maskable=False), VendorSpecific(5))
    assert [one.start for one in config.capabilities] == [0x40, 0x48, 0x54]
    assert [(link.offset, link.id) for link in walk(config.image)] == [(0x40, 1), (0x48, 5), (0x54, 9)]


def test_capability_with_offset_lies_there_and_others_around(make: Make) -> None:
    config = make(VendorSpecific(16), PowerManagement(at=0x48), VendorSpecific(8))
    assert [one.start for one in config.capabilities] == [0x50, 0x48, 0x40]
    assert [link.offset for link in walk(config.image)] == [0x50, 0x48, 0x40]


def test_capabilities_that_overlap_refused_naming_both(make: Make) -> None:
    """S2.12: a conflict is a construction error that names both."""
    with pytest.raises(DeclarationError, match=r"PowerManagement \(0x40 to 0x47\) and Msi \(0x44 to 0x5b\)"):
        make(PowerManagement(at=0x40), Msi(at=0x44))


@pytest.mark.parametrize(("at", "message"), [(0x42, "multiple of 4"), (0x3C, "within 0x40"), (0xFC, "to 0xff")])
def test_capability_at_impossible_offset_refused(make: Make, at: int, message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        make(PowerManagement(at=at))


def test_capabilities_without_room_refused(make: Make) -> None:
    with pytest.raises(DeclarationError, match=r"PowerManagement \(8 bytes\) without room"):
        make(VendorSpecific(188), PowerManagement())


def test_capability_of_one_kind_twice_refused(make: Make) -> None:
    declared = PowerManagement()
    with pytest.raises(DeclarationError, match="must have one PowerManagement"):
        make(declared, declared)


def test_extended_capability_lies_at_0x100(make: Make) -> None:
    """S2.11: extended capabilities from 0x100 on."""
    config = make(PciExpress(), DeviceSerialNumber(0x0123456789ABCDEF))
    assert [(link.offset, link.id, link.next, link.version) for link in walk_extended(config.image)] == [
        (0x100, 3, 0, 1)
    ]
    assert config.read(0x104, 8) == 0x0123456789ABCDEF


def test_extended_list_starts_with_the_one_at_0x100(make: Make) -> None:
    """S2.11: an extended list has no pointer, it starts at 0x100 whatever was declared first."""
    config = make(PciExpress(), DeviceSerialNumber(at=0x140), Unregistered())
    assert [(link.offset, link.id) for link in walk_extended(config.image)] == [(0x100, 0x23), (0x140, 3)]


def test_extended_capability_without_express_refused(make: Make) -> None:
    with pytest.raises(DeclarationError, match="must have 4096 bytes"):
        make(DeviceSerialNumber())


def test_extended_list_without_one_at_0x100_refused(make: Make) -> None:
    with pytest.raises(DeclarationError, match="one extended capability must lie at 0x100, not DeviceSerialNumber"):
        make(PciExpress(), DeviceSerialNumber(at=0x140))


def test_extended_space_without_capabilities_starts_with_zero(make: Make) -> None:
    config = make(PciExpress())
    assert config.read(0x100, 4) == 0
    assert walk_extended(config.image) == []
