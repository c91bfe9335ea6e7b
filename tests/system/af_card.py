"""A conventional PCI card for the guest tests: without PCI Express its function level reset is Advanced Features'."""

from vfuserver import AdvancedFeatures, Bar, KiB, PciDevice, PciIdentity, VendorSpecific


class AfCard(PciDevice):
    """One scratch register and one byte in configuration space, for a reset to clear."""

    identity = PciIdentity(vendor=0x1234, device=0x0AF1, class_code=0xFF0000)
    capabilities = (AdvancedFeatures(), VendorSpecific(length=4, writable=b"\xff"))

    registers = Bar(0, size=4 * KiB)
    scratch = registers.rw(0x00)
