"""The Device Serial Number extended capability (PCIe 5.0, 7.9.3): a 64-bit EUI-64, read-only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.checks import require_range
from vfuserver.pci.fields import QWORD, QWORD_MASK, Field

DSN_ID: Final = 0x0003
DSN_SERIAL: Final = 0x04


@dataclass(frozen=True)
class DeviceSerialNumber(ExtendedCapability, id=DSN_ID):
    """`serial`, 64 bits."""

    serial: int = 0

    def __post_init__(self) -> None:
        require_range("DeviceSerialNumber.serial", self.serial, 0, QWORD_MASK)

    def body(self) -> Sequence[Field]:
        """The serial number, low dword first."""
        return (Field("serial", DSN_SERIAL, QWORD, reset=self.serial),)
