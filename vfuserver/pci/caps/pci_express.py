"""The PCI Express capability, version 2, of an endpoint (PCIe 5.0, 7.5.3): 60 bytes.

It gives the function 4096 bytes of configuration space. Link, slot and root registers are read-only (S2.25): the link
is x1 at 2.5 GT/s and always up. Device Capabilities 2 says what other capabilities imply. With `flr` the function
level reset runs before the write is answered (S2.26).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import reduce
from operator import or_
from typing import Final, Self

from vfuserver.pci.block import Write
from vfuserver.pci.capability import AnyCapability, Capability, ExtendedCapability
from vfuserver.pci.fields import DWORD, WORD, WORD_MASK, Field
from vfuserver.vfio import Later, ResetReason

EXPRESS_ID: Final = 0x10
EXP_CAPABILITIES: Final = 0x02
EXP_DEVICE_CAPABILITIES: Final = 0x04
EXP_DEVICE_CONTROL: Final = 0x08
EXP_DEVICE_STATUS: Final = 0x0A
EXP_LINK_CAPABILITIES: Final = 0x0C
EXP_LINK_CONTROL: Final = 0x10
EXP_LINK_STATUS: Final = 0x12
EXP_SLOT_CAPABILITIES: Final = 0x14
EXP_SLOT_CONTROL: Final = 0x18
EXP_SLOT_STATUS: Final = 0x1A
EXP_ROOT_CONTROL: Final = 0x1C
EXP_ROOT_CAPABILITIES: Final = 0x1E
EXP_ROOT_STATUS: Final = 0x20
EXP_DEVICE_CAPABILITIES_2: Final = 0x24
EXP_DEVICE_CONTROL_2: Final = 0x28
EXP_DEVICE_STATUS_2: Final = 0x2A
EXP_LINK_CAPABILITIES_2: Final = 0x2C
EXP_LINK_CONTROL_2: Final = 0x30
EXP_LINK_STATUS_2: Final = 0x32
EXP_SLOT_CAPABILITIES_2: Final = 0x34
EXP_SLOT_CONTROL_2: Final = 0x38
EXP_SLOT_STATUS_2: Final = 0x3A

VERSION_2: Final = 2
PORT_TYPE_SHIFT: Final = 4


class PortType(IntEnum):
    """Device/port types of an endpoint (7.5.3.2)."""

    ENDPOINT = 0
    LEGACY_ENDPOINT = 1
    ROOT_COMPLEX_ENDPOINT = 9


class ExpressCapabilities(IntEnum):
    """+2 (7.5.3.2)."""

    VERSION = 0x000F
    PORT_TYPE = 0x00F0
    SLOT = 0x0100
    INTERRUPT_MESSAGE = 0x3E00


class DeviceCapabilities(IntEnum):
    """+4 (7.5.3.3)."""

    MAX_PAYLOAD = 0x0000_0007
    PHANTOM_FUNCTIONS = 0x0000_0018
    EXTENDED_TAG = 0x0000_0020
    L0S_LATENCY = 0x0000_01C0
    L1_LATENCY = 0x0000_0E00
    ROLE_BASED_ERRORS = 0x0000_8000
    FLR = 0x1000_0000


class DeviceControl(IntEnum):
    """+8 (7.5.3.4)."""

    CORRECTABLE_REPORTING = 0x0001
    NON_FATAL_REPORTING = 0x0002
    FATAL_REPORTING = 0x0004
    UNSUPPORTED_REPORTING = 0x0008
    RELAXED_ORDERING = 0x0010
    MAX_PAYLOAD = 0x00E0
    EXTENDED_TAG = 0x0100
    PHANTOM_FUNCTIONS = 0x0200
    AUX_POWER = 0x0400
    NO_SNOOP = 0x0800
    MAX_READ_REQUEST = 0x7000
    INITIATE_FLR = 0x8000


class DeviceStatus(IntEnum):
    """+0xa (7.5.3.5)."""

    CORRECTABLE_ERROR = 0x0001
    NON_FATAL_ERROR = 0x0002
    FATAL_ERROR = 0x0004
    UNSUPPORTED_REQUEST = 0x0008
    AUX_POWER = 0x0010
    TRANSACTIONS_PENDING = 0x0020


class LinkCapabilities(IntEnum):
    """+0xc (7.5.3.6)."""

    SPEED = 0x0000_000F
    WIDTH = 0x0000_03F0
    ASPM = 0x0000_0C00
    ASPM_OPTIONALITY = 0x0040_0000
    PORT = 0xFF00_0000


class LinkStatus(IntEnum):
    """+0x12 (7.5.3.8)."""

    SPEED = 0x000F
    WIDTH = 0x03F0


class DeviceCapabilities2(IntEnum):
    """+0x24 (7.5.3.15): what other capabilities imply."""

    LTR = 0x0000_0800
    EXTENDED_FMT = 0x0010_0000
    END_TO_END_PREFIX = 0x0020_0000
    MAX_PREFIXES = 0x00C0_0000


MAX_PREFIXES_1: Final = 0x0040_0000
ONE_PREFIX: Final = DeviceCapabilities2.EXTENDED_FMT | DeviceCapabilities2.END_TO_END_PREFIX | MAX_PREFIXES_1
"""A function that sends, or takes, one end-to-end TLP prefix in a packet: such as PASID's."""


class DeviceControl2(IntEnum):
    """+0x28 (7.5.3.16): the part that is told apart."""

    ARI_FORWARDING = 0x0020


LINK_2_5_GT: Final = 0x1
LINK_X1: Final = 0x10
LINK_2_SPEEDS: Final = 0x2
"""Supported Link Speeds Vector, bits 7:1: 2.5 GT/s only."""
READ_REQUEST_512: Final = 0x2000

DEVICE_CONTROL_RESET: Final = DeviceControl.RELAXED_ORDERING | DeviceControl.NO_SNOOP | READ_REQUEST_512
DEVICE_CONTROL_WRITABLE: Final = WORD_MASK & ~(DeviceControl.PHANTOM_FUNCTIONS | DeviceControl.INITIATE_FLR)
DEVICE_CONTROL_2_WRITABLE: Final = WORD_MASK & ~DeviceControl2.ARI_FORWARDING
DEVICE_ERRORS: Final = (
    DeviceStatus.CORRECTABLE_ERROR
    | DeviceStatus.NON_FATAL_ERROR
    | DeviceStatus.FATAL_ERROR
    | DeviceStatus.UNSUPPORTED_REQUEST
)


@dataclass(frozen=True)
class PciExpress(Capability, id=EXPRESS_ID, extends=True):
    """`flr`: the function has a function level reset. `port_type`: what kind of endpoint it is. `second`: bits of
    Device Capabilities 2, besides those that its other capabilities imply."""

    flr: bool = False
    port_type: PortType = PortType.ENDPOINT
    second: int = 0

    def beside(self, others: Sequence[AnyCapability]) -> Self:
        """With what the function's extended capabilities imply."""
        implied = (one.implies for one in others if isinstance(one, ExtendedCapability))
        return replace(self, second=reduce(or_, implied, self.second))

    def body(self) -> Sequence[Field]:
        """Device, link, slot and root registers, and their second versions."""
        return (*self._device(), *self._link(), *self._slot_and_root(), *self._second())

    def _device(self) -> Sequence[Field]:
        capabilities = DeviceCapabilities.ROLE_BASED_ERRORS | DeviceCapabilities.FLR * self.flr
        return (
            Field(
                "capabilities",
                EXP_CAPABILITIES,
                WORD,
                reset=VERSION_2 | self.port_type << PORT_TYPE_SHIFT,
                bits=ExpressCapabilities,
                meanings=((ExpressCapabilities.PORT_TYPE, PortType),),
            ),
            Field("device_capabilities", EXP_DEVICE_CAPABILITIES, DWORD, reset=capabilities, bits=DeviceCapabilities),
            Field(
                "device_control",
                EXP_DEVICE_CONTROL,
                WORD,
                reset=DEVICE_CONTROL_RESET,
                writable=DEVICE_CONTROL_WRITABLE,
                hooked=DeviceControl.INITIATE_FLR if self.flr else 0,
                bits=DeviceControl,
            ),
            Field("device_status", EXP_DEVICE_STATUS, WORD, clear=DEVICE_ERRORS, bits=DeviceStatus),
        )

    def _link(self) -> Sequence[Field]:
        link = LINK_2_5_GT | LINK_X1
        capabilities = link | LinkCapabilities.ASPM_OPTIONALITY
        return (
            Field("link_capabilities", EXP_LINK_CAPABILITIES, DWORD, reset=capabilities, bits=LinkCapabilities),
            Field("link_control", EXP_LINK_CONTROL, WORD),
            Field("link_status", EXP_LINK_STATUS, WORD, reset=link, bits=LinkStatus),
        )

    def _slot_and_root(self) -> Sequence[Field]:
        return (
            Field("slot_capabilities", EXP_SLOT_CAPABILITIES, DWORD),
            Field("slot_control", EXP_SLOT_CONTROL, WORD),
            Field("slot_status", EXP_SLOT_STATUS, WORD),
            Field("root_control", EXP_ROOT_CONTROL, WORD),
            Field("root_capabilities", EXP_ROOT_CAPABILITIES, WORD),
            Field("root_status", EXP_ROOT_STATUS, DWORD),
        )

    def _second(self) -> Sequence[Field]:
        return (
            Field(
                "device_capabilities_2",
                EXP_DEVICE_CAPABILITIES_2,
                DWORD,
                reset=self.second,
                bits=DeviceCapabilities2,
            ),
            Field(
                "device_control_2",
                EXP_DEVICE_CONTROL_2,
                WORD,
                writable=DEVICE_CONTROL_2_WRITABLE,
                bits=DeviceControl2,
            ),
            Field("device_status_2", EXP_DEVICE_STATUS_2, WORD),
            Field("link_capabilities_2", EXP_LINK_CAPABILITIES_2, DWORD, reset=LINK_2_SPEEDS),
            Field("link_control_2", EXP_LINK_CONTROL_2, WORD, reset=LINK_2_5_GT),
            Field("link_status_2", EXP_LINK_STATUS_2, WORD),
            Field("slot_capabilities_2", EXP_SLOT_CAPABILITIES_2, DWORD),
            Field("slot_control_2", EXP_SLOT_CONTROL_2, WORD),
            Field("slot_status_2", EXP_SLOT_STATUS_2, WORD),
        )

    @classmethod
    def variants(cls) -> Sequence["PciExpress"]:
        """Without and with a function level reset, and inside a root complex."""
        return (cls(), cls(flr=True), cls(port_type=PortType.ROOT_COMPLEX_ENDPOINT))

    def on_write(self, write: Write) -> Later | None:
        """Runs the function level reset; the bit itself always reads 0 (S2.26)."""
        if self.flr and write.asked("device_control") & DeviceControl.INITIATE_FLR:
            return self.port.reset_requested(ResetReason.FLR)
        return None
