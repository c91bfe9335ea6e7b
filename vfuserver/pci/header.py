"""The Type-0 header, configuration bytes 0x00 to 0x3f (PCI 3.0, 6.1 and 6.2; PCIe 5.0, 7.5.1.1 and 7.5.1.2).

Rows and the effect of COMMAND's INTX_DISABLE; everything else is masks. It must not know capabilities, except that a
pointer to the first one is in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum, IntFlag
from functools import cached_property, lru_cache
from typing import Any, Final

from vfuserver.pci.bar import BarLayout, RomLayout
from vfuserver.pci.block import Block, Write
from vfuserver.pci.checks import require_range
from vfuserver.pci.fields import BYTE, BYTE_MASK, DWORD, WORD, Field, Layout, compile_layout
from vfuserver.pci.identity import PciIdentity
from vfuserver.pci.port import Command
from vfuserver.vfio import PciIrq

VENDOR_ID: Final = 0x00
DEVICE_ID: Final = 0x02
COMMAND: Final = 0x04
STATUS: Final = 0x06
REVISION_ID: Final = 0x08
CLASS_CODE: Final = 0x09
CACHE_LINE_SIZE: Final = 0x0C
LATENCY_TIMER: Final = 0x0D
HEADER_TYPE: Final = 0x0E
BIST: Final = 0x0F
CARDBUS_CIS: Final = 0x28
SUBSYSTEM_VENDOR_ID: Final = 0x2C
SUBSYSTEM_ID: Final = 0x2E
CAPABILITIES_POINTER: Final = 0x34
INTERRUPT_LINE: Final = 0x3C
INTERRUPT_PIN: Final = 0x3D
MIN_GNT: Final = 0x3E
MAX_LAT: Final = 0x3F

CLASS_CODE_BYTES: Final = 3
HEADER_LENGTH: Final = 0x40
MULTIFUNCTION: Final = 0x80
COMMAND_WRITABLE: Final = (
    Command.IO | Command.MEMORY | Command.MASTER | Command.PARITY_RESPONSE | Command.SERR_ENABLE | Command.INTX_DISABLE
)


class Status(IntFlag):
    """Bits of the STATUS register, 0x06 (PCI 3.0, 6.2.3)."""

    INTERRUPT = 1 << 3
    CAPABILITIES_LIST = 1 << 4
    MASTER_DATA_PARITY_ERROR = 1 << 8
    SIGNALED_TARGET_ABORT = 1 << 11
    RECEIVED_TARGET_ABORT = 1 << 12
    RECEIVED_MASTER_ABORT = 1 << 13
    SIGNALED_SYSTEM_ERROR = 1 << 14
    DETECTED_PARITY_ERROR = 1 << 15


STATUS_ERRORS: Final = (
    Status.MASTER_DATA_PARITY_ERROR
    | Status.SIGNALED_TARGET_ABORT
    | Status.RECEIVED_TARGET_ABORT
    | Status.RECEIVED_MASTER_ABORT
    | Status.SIGNALED_SYSTEM_ERROR
    | Status.DETECTED_PARITY_ERROR
)
"""What a device records and writing 1 clears (S2.17)."""


class InterruptPin(IntEnum):
    """The INTx pin of a function (PCI 3.0, 6.2.4); NONE: it has no legacy interrupt."""

    NONE = 0
    A = 1
    B = 2
    C = 3
    D = 4


def as_pin(pin: int) -> InterruptPin:
    """The pin of a number from 0 to 4; DeclarationError for any other."""
    require_range("interrupt pin", pin, InterruptPin.NONE, InterruptPin.D)
    return InterruptPin(pin)


@dataclass(frozen=True)
class Header(Block):
    """The header of one function; `first_capability` is the offset of the capability list, 0 without one."""

    identity: PciIdentity
    bars: tuple[BarLayout, ...] = ()
    rom: RomLayout | None = None
    interrupt_pin: InterruptPin = InterruptPin.NONE
    multifunction: bool = False
    first_capability: int = 0

    @cached_property
    def layout(self) -> Layout:
        """The compiled rows: made once for all functions that declare the same."""
        return _layout(*(getattr(self, field.name) for field in fields(self)))

    def rows(self) -> Sequence[Field]:
        """Identification, COMMAND and STATUS, the timers, BARs, interrupt line and pin."""
        return (*self._identification(), *self._control(), *(bar.field() for bar in self.bars), *self._rom())

    def _identification(self) -> Sequence[Field]:
        identity = self.identity
        return (
            Field("vendor", VENDOR_ID, WORD, reset=identity.vendor),
            Field("device", DEVICE_ID, WORD, reset=identity.device),
            Field("revision", REVISION_ID, BYTE, reset=identity.revision),
            Field("class_code", CLASS_CODE, CLASS_CODE_BYTES, reset=identity.class_code),
            Field("header_type", HEADER_TYPE, BYTE, reset=MULTIFUNCTION if self.multifunction else 0),
            Field("cardbus_cis", CARDBUS_CIS, DWORD),
            Field("subsystem_vendor", SUBSYSTEM_VENDOR_ID, WORD, reset=identity.subsystem_vendor),
            Field("subsystem", SUBSYSTEM_ID, WORD, reset=identity.subsystem),
        )

    def _control(self) -> Sequence[Field]:
        command = COMMAND_WRITABLE if self._has_io else COMMAND_WRITABLE & ~Command.IO
        status = Status.CAPABILITIES_LIST if self.first_capability else 0
        return (
            Field("command", COMMAND, WORD, writable=command, bits=Command),
            Field("status", STATUS, WORD, reset=status, clear=STATUS_ERRORS, shown=Status.INTERRUPT, bits=Status),
            Field("cache_line_size", CACHE_LINE_SIZE, BYTE, writable=BYTE_MASK),
            Field("latency_timer", LATENCY_TIMER, BYTE, writable=BYTE_MASK),
            Field("bist", BIST, BYTE, writable=BYTE_MASK),
            Field("capabilities", CAPABILITIES_POINTER, BYTE, reset=self.first_capability),
            Field("interrupt_line", INTERRUPT_LINE, BYTE, writable=BYTE_MASK),
            Field("interrupt_pin", INTERRUPT_PIN, BYTE, reset=self.interrupt_pin),
            Field("min_gnt", MIN_GNT, BYTE),
            Field("max_lat", MAX_LAT, BYTE),
        )

    def _rom(self) -> Sequence[Field]:
        return () if self.rom is None else (self.rom.field(),)

    @property
    def _has_io(self) -> bool:
        return any(bar.is_io for bar in self.bars)

    @property
    def command(self) -> Command:
        """COMMAND as it reads."""
        return Command(self.get("command"))

    def on_write(self, write: Write) -> None:
        """INTX_DISABLE masks and unmasks the INTx index, by whichever access it is reached (S2.16)."""
        if write.changed("command") & Command.INTX_DISABLE:
            self.port.interrupts_changed(PciIrq.INTX)


@lru_cache(maxsize=64)
def _layout(*declared: Any) -> Layout:
    """Of a header that declares this. By its values, so that nothing bound to a device is kept."""
    return compile_layout(Header(*declared).rows())
