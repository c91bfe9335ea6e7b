import pytest

from vfuserver.errors import DeclarationError
from vfuserver.pci import PciIdentity


@pytest.mark.parametrize(
    ("field", "value"),
    [("vendor", 0x10000), ("device", -1), ("revision", 0x100), ("class_code", 1 << 24), ("subsystem", 1 << 16)],
)
def test_identity_value_wider_than_register_refused(field: str, value: int) -> None:
    with pytest.raises(DeclarationError, match=f"PciIdentity.{field} must be 0x0 to .*, not"):
        PciIdentity(**{"vendor": 1, "device": 2, field: value})


def test_identity_vendor_that_means_no_function_refused() -> None:
    with pytest.raises(DeclarationError, match="must be an assigned vendor id, not 0xffff"):
        PciIdentity(0xFFFF, 1)
