"""A configuration space whose lists are broken is never made."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from vfuserver.errors import LocalError
from vfuserver.pci import ConfigSpace, ExtendedCapability
from vfuserver.pci.caps.device_serial_number import DeviceSerialNumber
from vfuserver.pci.caps.msi import Msi
from vfuserver.pci.caps.vendor_specific import VendorSpecific
from vfuserver.pci.caps.vendor_specific_extended import VendorSpecificExtended

Make = Callable[..., ConfigSpace]

HEADER, ITSELF, BEYOND = 0x10, 0x40, 0xFC


@dataclass(frozen=True)
class Astray(VendorSpecific):
    """Points anywhere but to the next capability."""

    following: int = 0

    def header_bytes(self, following: int) -> bytes:
        """Id, and a pointer that is wrong."""
        return bytes((self.id, self.following))


@dataclass(frozen=True)
class AstrayExtended(VendorSpecificExtended):
    """The same from 0x100 on."""

    following: int = 0

    def header_bytes(self, following: int) -> bytes:
        """Id and version, and a pointer that is wrong."""
        return ExtendedCapability.header_bytes(self, self.following)


@pytest.mark.parametrize("following", [0, HEADER, ITSELF, BEYOND])
def test_broken_list_makes_creation_fail(make: Make, following: int) -> None:
    """S2.6: cut short, into the header, a circle, to where nothing is."""
    with pytest.raises(LocalError, match="the capability list is"):
        make(Astray(8, following=following), Msi())


@pytest.mark.parametrize("following", [0, 0x100, 0xFFC])
def test_broken_extended_list_makes_creation_fail(extended: Make, following: int) -> None:
    """S2.6: the same in the other list."""
    with pytest.raises(LocalError, match="the capability list is"):
        extended(AstrayExtended(following=following), DeviceSerialNumber())
