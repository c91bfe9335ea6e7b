from collections.abc import Callable

import pytest

from vfuserver.errors import DeclarationError
from vfuserver.pci import ConfigSpace, ExtendedCapability, Write
from vfuserver.pci.caps.designated_vendor_specific import DesignatedVendorSpecific
from vfuserver.pci.caps.vendor_specific_extended import VendorSpecificExtended

Make = Callable[..., ConfigSpace]


def test_vsec_header_carries_id_revision_and_length(extended: Make) -> None:
    """S2.9: the length is bits 31:20 of the vendor's header."""
    config = extended(VendorSpecificExtended(0x1234, revision=5, length=0x20, initial=b"hello"))
    assert config.access(0x100, 16, None) == bytes.fromhex("0b000100 34120502") + b"hello\0\0\0"
    assert config.capabilities[-1].length == 0x20


def test_dvsec_headers_carry_vendor_id_revision_and_length(extended: Make) -> None:
    """S2.9: likewise."""
    config = extended(DesignatedVendorSpecific(0x1E98, 8, revision=1, length=0x10, initial=b"hello"))
    assert config.access(0x100, 16, None) == bytes.fromhex("23000100 981e0101 0800") + b"hello\0"


def test_vsec_bytes_are_stored_under_the_mask_and_shown(extended: Make) -> None:
    """S2.28: the model decides."""
    seen: list[Write] = []
    config = extended(VendorSpecificExtended(length=0x10, writable=b"\x0f", handler=seen.append))
    config.access(0x108, 8, b"\xff" * 8)
    assert config.access(0x108, 8, None) == b"\x0f" + bytes(7)
    assert [(write.offset, write.width) for write in seen] == [(8, 4), (12, 4)]


def test_dvsec_bytes_are_stored_under_the_mask_and_shown(extended: Make) -> None:
    seen: list[Write] = []
    config = extended(DesignatedVendorSpecific(length=0x10, writable=b"\x0f", handler=seen.append))
    config.access(0x10A, 6, b"\xff" * 6)
    assert config.access(0x10A, 6, None) == b"\x0f" + bytes(5)
    assert [(write.offset, write.width) for write in seen] == [(10, 2), (12, 4)]


def test_vsec_several_of_one_function_stand_side_by_side(extended: Make) -> None:
    config = extended(VendorSpecificExtended(1), VendorSpecificExtended(2), DesignatedVendorSpecific(3))
    assert [one.start for one in config.capabilities[1:]] == [0x100, 0x10C, 0x118]


@pytest.mark.parametrize("kind", [VendorSpecificExtended, DesignatedVendorSpecific])
def test_vendor_bytes_beyond_the_length_refused(kind: type[VendorSpecificExtended]) -> None:
    assert issubclass(kind, ExtendedCapability)
    with pytest.raises(DeclarationError, match=r"initial must have at most \d bytes, not 9"):
        kind(length=16, initial=bytes(9))
    with pytest.raises(DeclarationError, match="length must be 0xc to 0xf00, not 0x8"):
        kind(length=8)
    with pytest.raises(DeclarationError, match="revision must be 0x0 to 0xf, not 0x10"):
        kind(revision=16)
