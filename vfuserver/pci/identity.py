"""Who a PCI function says it is: the read-only identification registers of a Type-0 header (PCI 3.0, 6.2.1 and 6.2.4).

It must not know configuration space, BARs or devices.
"""

from dataclasses import dataclass
from typing import Final

from vfuserver.errors import DeclarationError
from vfuserver.pci.checks import require_range

NO_VENDOR: Final = 0xFFFF
"""The vendor id that a host reads where no function answers (PCI 3.0, 6.1)."""

_LIMITS: Final = {
    "vendor": 0xFFFF,
    "device": 0xFFFF,
    "revision": 0xFF,
    "class_code": 0xFF_FFFF,
    "subsystem_vendor": 0xFFFF,
    "subsystem": 0xFFFF,
}


@dataclass(frozen=True, slots=True)
class PciIdentity:
    """Identification of one function.

    `class_code` has 24 bits: base class, sub-class and programming interface, as in 0x010802 for NVMe. DeclarationError
    for a value wider than its register, and for vendor 0xffff, which means that no function is there.
    """

    vendor: int
    device: int
    revision: int = 0
    class_code: int = 0
    subsystem_vendor: int = 0
    subsystem: int = 0

    def __post_init__(self) -> None:
        for name, highest in _LIMITS.items():
            require_range(f"PciIdentity.{name}", getattr(self, name), 0, highest)
        if self.vendor == NO_VENDOR:
            raise DeclarationError(f"PciIdentity.vendor must be an assigned vendor id, not {NO_VENDOR:#x}")
