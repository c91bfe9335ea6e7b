"""The Advanced Error Reporting extended capability, AER, of an endpoint (PCIe 5.0, 7.8.4): 0x2c bytes.

Status, masks, severities and ECRC enables are software's to write where they are named (S2.27), and all of them
survive a reset (S2.30). A model's error is recorded here; who else learns of it is decided in `pci/error_report.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from vfuserver.errors import LocalError
from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.fields import DWORD, DWORD_MASK, Field

AER_ID: Final = 0x0001
AER_UNCORRECTABLE_STATUS: Final = 0x04
AER_UNCORRECTABLE_MASK: Final = 0x08
AER_UNCORRECTABLE_SEVERITY: Final = 0x0C
AER_CORRECTABLE_STATUS: Final = 0x10
AER_CORRECTABLE_MASK: Final = 0x14
AER_CONTROL: Final = 0x18
AER_HEADER_LOG: Final = 0x1C

HEADER_LOG_DWORDS: Final = 4
HEADER_LOG_BYTES: Final = DWORD * HEADER_LOG_DWORDS


class UncorrectableError(IntFlag):
    """Bits of the status, mask and severity registers (7.8.4.2 to 7.8.4.4)."""

    DATA_LINK_PROTOCOL = 1 << 4
    SURPRISE_DOWN = 1 << 5
    POISONED_TLP = 1 << 12
    FLOW_CONTROL = 1 << 13
    COMPLETION_TIMEOUT = 1 << 14
    COMPLETER_ABORT = 1 << 15
    UNEXPECTED_COMPLETION = 1 << 16
    RECEIVER_OVERFLOW = 1 << 17
    MALFORMED_TLP = 1 << 18
    ECRC = 1 << 19
    UNSUPPORTED_REQUEST = 1 << 20
    ACS_VIOLATION = 1 << 21
    INTERNAL = 1 << 22
    MULTICAST_BLOCKED = 1 << 23
    ATOMIC_BLOCKED = 1 << 24
    PREFIX_BLOCKED = 1 << 25


class CorrectableError(IntFlag):
    """Bits of the status and mask registers (7.8.4.5, 7.8.4.6)."""

    RECEIVER = 1 << 0
    BAD_TLP = 1 << 6
    BAD_DLLP = 1 << 7
    REPLAY_ROLLOVER = 1 << 8
    REPLAY_TIMEOUT = 1 << 12
    ADVISORY_NON_FATAL = 1 << 13
    INTERNAL = 1 << 14
    HEADER_LOG_OVERFLOW = 1 << 15


class AerControl(IntEnum):
    """Capabilities and control, +0x18 (7.8.4.7)."""

    FIRST_ERROR = 0x001F
    ECRC_GENERATION = 0x0020
    ECRC_GENERATION_ENABLE = 0x0040
    ECRC_CHECK = 0x0080
    ECRC_CHECK_ENABLE = 0x0100


UNCORRECTABLE: Final = sum(UncorrectableError)
CORRECTABLE: Final = sum(CorrectableError)
FATAL_AT_RESET: Final = (
    UncorrectableError.DATA_LINK_PROTOCOL
    | UncorrectableError.SURPRISE_DOWN
    | UncorrectableError.FLOW_CONTROL
    | UncorrectableError.RECEIVER_OVERFLOW
    | UncorrectableError.MALFORMED_TLP
    | UncorrectableError.INTERNAL
)
"""The severity register's first value (7.8.4.4)."""
CORRECTABLE_MASKED: Final = (
    CorrectableError.ADVISORY_NON_FATAL | CorrectableError.INTERNAL | CorrectableError.HEADER_LOG_OVERFLOW
)
"""The correctable mask's first value (7.8.4.6)."""


@dataclass(frozen=True)
class AdvancedErrorReporting(ExtendedCapability, id=AER_ID):
    """`ecrc`: the function can generate and check ECRCs, so that their enables are there."""

    ecrc: bool = True

    def body(self) -> Sequence[Field]:
        """Uncorrectable, correctable, control and the header log."""
        return (*self._uncorrectable(), *self._correctable(), self._control(), *self._header_log())

    def _uncorrectable(self) -> Sequence[Field]:
        return (
            _row("uncorrectable_status", AER_UNCORRECTABLE_STATUS, UncorrectableError, clear=UNCORRECTABLE),
            _row("uncorrectable_mask", AER_UNCORRECTABLE_MASK, UncorrectableError, UncorrectableError.INTERNAL),
            _row("uncorrectable_severity", AER_UNCORRECTABLE_SEVERITY, UncorrectableError, FATAL_AT_RESET),
        )

    def _correctable(self) -> Sequence[Field]:
        return (
            _row("correctable_status", AER_CORRECTABLE_STATUS, CorrectableError, clear=CORRECTABLE),
            _row("correctable_mask", AER_CORRECTABLE_MASK, CorrectableError, CORRECTABLE_MASKED),
        )

    def _control(self) -> Field:
        capable = AerControl.ECRC_GENERATION | AerControl.ECRC_CHECK if self.ecrc else 0
        enables = AerControl.ECRC_GENERATION_ENABLE | AerControl.ECRC_CHECK_ENABLE if self.ecrc else 0
        return Field(
            "control",
            AER_CONTROL,
            DWORD,
            reset=capable,
            writable=enables,
            sticky=enables | AerControl.FIRST_ERROR,
            bits=AerControl,
        )

    def _header_log(self) -> Sequence[Field]:
        return tuple(
            Field(f"header_log_{index}", AER_HEADER_LOG + DWORD * index, DWORD, sticky=DWORD_MASK)
            for index in range(HEADER_LOG_DWORDS)
        )

    @classmethod
    def variants(cls) -> Sequence["AdvancedErrorReporting"]:
        """With and without ECRC."""
        return (cls(), cls(ecrc=False))

    def record(self, error: UncorrectableError | CorrectableError, tlp_header: bytes = b"") -> bool:
        """Shows one error; True when software has not masked it.

        `tlp_header`: the first bytes, 16 at most, of the packet that an uncorrectable error is about, as sent. It and
        the first-error pointer keep the first error that is not masked until software clears its status bit (6.2.4.2).
        LocalError for several errors at once or a longer header.
        """
        if error.bit_count() != 1:
            raise LocalError(f"one error must be recorded at a time, not {error!r}")
        if isinstance(error, CorrectableError):
            self.set_bits("correctable_status", error, True)
            return not self.get("correctable_mask") & error
        recorded = self.get("uncorrectable_status")
        self.set_bits("uncorrectable_status", error, True)
        if self.get("uncorrectable_mask") & error:
            return False
        if not recorded >> (self.get("control") & AerControl.FIRST_ERROR) & 1:
            self._log(error, tlp_header)
        return True

    def is_fatal(self, error: UncorrectableError) -> bool:
        """True when software calls the error fatal."""
        return bool(self.get("uncorrectable_severity") & error)

    def _log(self, error: UncorrectableError, tlp_header: bytes) -> None:
        if len(tlp_header) > HEADER_LOG_BYTES:
            raise LocalError(f"a TLP header must have at most {HEADER_LOG_BYTES} bytes, not {len(tlp_header)}")
        padded = tlp_header.ljust(HEADER_LOG_BYTES, b"\0")
        self.set_bits("control", AerControl.FIRST_ERROR, False)
        self.set_bits("control", error.bit_length() - 1, True)
        for index in range(HEADER_LOG_DWORDS):
            dword = padded[DWORD * index : DWORD * (index + 1)]
            self.set(f"header_log_{index}", int.from_bytes(dword, "big"))  # 7.8.4.8: byte 0 is the highest


def _row(name: str, offset: int, errors: type[IntFlag], reset: int = 0, clear: int = 0) -> Field:
    named = sum(errors)
    writable = named & ~clear
    return Field(name, offset, DWORD, reset=reset, writable=writable, clear=clear, sticky=named, bits=errors)
