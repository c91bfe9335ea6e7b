"""A device with one capability of each file of `pci/caps`; a new file is in it without an edit here."""

from vfuserver import Bar, MiB, PciDevice, PciIdentity
from vfuserver.pci import AnyCapability, registered


def typical() -> tuple[AnyCapability, ...]:
    """One of each: its second layout, which is neither empty nor the longest."""
    return tuple(list(declared.variants())[:2][-1] for declared in registered())


class OneOfEach(PciDevice):
    """Both lists of capabilities as long as they can be, and six BARs for those that speak of BARs."""

    identity = PciIdentity(0x1234, 0x7E58)
    capabilities = typical()
    bar0, bar1, bar2, bar3, bar4, bar5 = (Bar(index, size=1 * MiB) for index in range(6))
