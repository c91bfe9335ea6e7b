"""The Access Control Services extended capability, ACS (PCIe 5.0, 7.7.8): who may talk to whom within a device.

An emulated function sends everything upstream anyway, so what software enables is stored and nothing follows from it.
The egress control vector follows the two registers where that service is there (S2.9: the length is computed).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from vfuserver.errors import DeclarationError
from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.checks import require_range
from vfuserver.pci.fields import BYTE_MASK, DWORD, WORD, Field

ACS_ID: Final = 0x000D
ACS_CAPABILITY: Final = 0x04
ACS_CONTROL: Final = 0x06
ACS_EGRESS_VECTOR: Final = 0x08
EGRESS_SIZE_SHIFT: Final = 8
LARGEST_EGRESS: Final = BYTE_MASK
DWORD_BITS: Final = 8 * DWORD

VARIANT_EGRESS: Final = 33


class AcsService(IntFlag):
    """The services; the same bits in the capability and the control register (7.7.8.2, 7.7.8.3)."""

    SOURCE_VALIDATION = 0x01
    TRANSLATION_BLOCKING = 0x02
    REQUEST_REDIRECT = 0x04
    COMPLETION_REDIRECT = 0x08
    UPSTREAM_FORWARDING = 0x10
    EGRESS_CONTROL = 0x20
    DIRECT_TRANSLATED = 0x40


class AcsCapability(IntEnum):
    """+4 (7.7.8.2)."""

    SOURCE_VALIDATION = AcsService.SOURCE_VALIDATION
    TRANSLATION_BLOCKING = AcsService.TRANSLATION_BLOCKING
    REQUEST_REDIRECT = AcsService.REQUEST_REDIRECT
    COMPLETION_REDIRECT = AcsService.COMPLETION_REDIRECT
    UPSTREAM_FORWARDING = AcsService.UPSTREAM_FORWARDING
    EGRESS_CONTROL = AcsService.EGRESS_CONTROL
    DIRECT_TRANSLATED = AcsService.DIRECT_TRANSLATED
    EGRESS_VECTOR_SIZE = 0xFF00


REDIRECTION: Final = AcsService.REQUEST_REDIRECT | AcsService.COMPLETION_REDIRECT | AcsService.DIRECT_TRANSLATED
"""What a function of a multi-function endpoint has (6.12.1.2)."""


@dataclass(frozen=True)
class AccessControl(ExtendedCapability, id=ACS_ID):
    """`services`: what can be enabled. `egress`: bits of the egress control vector, 1 to 255, with EGRESS_CONTROL.

    DeclarationError for a vector without the service, or the service without a vector.
    """

    services: AcsService = REDIRECTION
    egress: int = 0

    def __post_init__(self) -> None:
        require_range("AccessControl.egress", self.egress, 0, LARGEST_EGRESS)
        if bool(self.egress) != (AcsService.EGRESS_CONTROL in self.services):
            raise DeclarationError(
                f"AccessControl.egress must be 1 to {LARGEST_EGRESS} with EGRESS_CONTROL and 0 without, "
                f"not {self.egress} with {self.services!r}"
            )

    def body(self) -> Sequence[Field]:
        """What there is, what is enabled, and the egress control vector."""
        capability = self.services | self.egress << EGRESS_SIZE_SHIFT
        return (
            Field("capability", ACS_CAPABILITY, WORD, reset=capability, bits=AcsCapability),
            Field("control", ACS_CONTROL, WORD, writable=self.services, bits=AcsService),
            *self._egress(),
        )

    def _egress(self) -> Sequence[Field]:
        if not self.egress:
            return ()
        width = -(-self.egress // DWORD_BITS) * DWORD
        mask = (1 << self.egress) - 1
        return (Field("egress_vector", ACS_EGRESS_VECTOR, width, writable=mask),)

    @classmethod
    def variants(cls) -> Sequence["AccessControl"]:
        """A function's, and one with every service and a vector of two dwords."""
        return (cls(), cls(AcsService(sum(AcsService)), VARIANT_EGRESS))
