from collections.abc import Callable

import pytest

from vfuserver.errors import DeclarationError
from vfuserver.pci import ConfigSpace, Write
from vfuserver.pci.caps.vendor_specific import LONGEST, VendorSpecific

Make = Callable[..., ConfigSpace]


def test_vendor_bytes_read_as_declared_and_by_default_read_only(make: Make) -> None:
    """S2.28: default read-only zero."""
    config = make(VendorSpecific(8, initial=b"ab"))
    config.access(0x40, 8, b"\xff" * 8)
    assert config.access(0x40, 8, None) == b"\x09\x00\x08ab\0\0\0"


def test_vendor_writable_bits_are_stored_and_told(make: Make) -> None:
    """Byte 8 of 16, as testdev's switch."""
    seen: list[Write] = []
    config = make(VendorSpecific(16, writable=bytes(5) + b"\x01", handler=seen.append))
    config.write(0x48, 1, 0xFF)
    assert config.read(0x48, 1) == 1
    assert [(write.offset, write.data, write.touches("data"), write.touches("length")) for write in seen] == [
        (8, b"\xff", True, False)
    ]


@pytest.mark.parametrize("length", [3, LONGEST + 1])
def test_vendor_impossible_length_refused(length: int) -> None:
    with pytest.raises(DeclarationError, match=r"VendorSpecific.length must be 0x4 to 0xc0"):
        VendorSpecific(length)


@pytest.mark.parametrize("field", ["initial", "writable"])
def test_vendor_bytes_beyond_length_refused(field: str) -> None:
    with pytest.raises(DeclarationError, match=f"VendorSpecific.{field} must have at most 5 bytes, not 6"):
        VendorSpecific(8, **{field: bytes(6)})  # type: ignore[arg-type]
