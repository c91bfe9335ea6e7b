import pytest

from vfuserver._core import Gate
from vfuserver.errors import DeclarationError
from vfuserver.pci import ConfigSpace, GatePort, PciIdentity
from vfuserver.pci.caps.device_serial_number import DeviceSerialNumber
from vfuserver.pci.caps.pci_express import PciExpress

SERIAL = 0x0123456789ABCDEF


def test_serial_is_read_only_and_low_dword_first() -> None:
    """S2.9: 12 bytes; PCIe 5.0, 7.9.3."""
    declared = (PciExpress(), DeviceSerialNumber(SERIAL))
    config = ConfigSpace(PciIdentity(1, 2), capabilities=declared, port=GatePort(Gate()))
    config.access(0x100, 12, b"\xff" * 12)
    assert config.access(0x100, 12, None) == bytes.fromhex("03000100 efcdab89 67452301")


def test_serial_of_more_than_64_bits_refused() -> None:
    with pytest.raises(DeclarationError, match=r"DeviceSerialNumber.serial"):
        DeviceSerialNumber(1 << 64)
