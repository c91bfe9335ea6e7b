"""A conventional PCI card for the guest tests: without PCI Express its function level reset is Advanced Features'."""

from vfuserver import AdvancedFeatures, Bar, KiB, PciDevice, PciIdentity, VendorSpecific, VitalProductData

_NAME, _READ_ONLY, _END = 0x82, 0x90, b"\x78"
"""Tags of vital product data (PCI 3.0, appendix I)."""


def vital_product_data(name: bytes, part: bytes) -> bytes:
    """A name and a part number, with the checksum that makes the sum of all bytes up to it zero."""
    fields = b"PN" + bytes((len(part),)) + part + b"RV\x01"
    data = b"".join(
        (bytes((tag, size & 0xFF, size >> 8)) + content)
        for tag, size, content in ((_NAME, len(name), name), (_READ_ONLY, len(fields) + 1, fields))
    )
    data += bytes((-sum(data) & 0xFF,)) + _END
    return data.ljust(-(-len(data) // 4) * 4, b"\0")


class AfCard(PciDevice):
    """One scratch register and one byte in configuration space, for a reset to clear; VPD for lspci to read."""

    identity = PciIdentity(vendor=0x1234, device=0x0AF1, class_code=0xFF0000)
    capabilities = (
        AdvancedFeatures(),
        VendorSpecific(length=4, writable=b"\xff"),
        VitalProductData(vital_product_data(b"AF card", b"vfu-af1")),
    )

    registers = Bar(0, size=4 * KiB)
    scratch = registers.rw(0x00)
