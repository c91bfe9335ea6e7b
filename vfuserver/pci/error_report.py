"""What becomes of an error that a function finds: the three places that show it, and the message that may leave.

DEVSTA of PCI Express, the status registers of AER, and STATUS of the header each keep their own bits; this is the
order of PCIe 5.0, 6.2.5. It must not know devices nor how a message travels.
"""

from enum import Enum
from typing import Final, TypeAlias

from vfuserver.pci.caps.advanced_error_reporting import (
    FATAL_AT_RESET,
    AdvancedErrorReporting,
    CorrectableError,
    UncorrectableError,
)
from vfuserver.pci.caps.pci_express import DeviceControl, DeviceStatus, PciExpress
from vfuserver.pci.config_space import ConfigSpace
from vfuserver.pci.header import Status
from vfuserver.pci.port import Command

PciError: TypeAlias = UncorrectableError | CorrectableError


class ErrorMessage(Enum):
    """The messages of a function to its root port (PCIe 5.0, 2.2.8.3)."""

    CORRECTABLE = "ERR_COR"
    NON_FATAL = "ERR_NONFATAL"
    FATAL = "ERR_FATAL"


_DETECTED: Final = {
    ErrorMessage.CORRECTABLE: DeviceStatus.CORRECTABLE_ERROR,
    ErrorMessage.NON_FATAL: DeviceStatus.NON_FATAL_ERROR,
    ErrorMessage.FATAL: DeviceStatus.FATAL_ERROR,
}
_ENABLES: Final = {
    ErrorMessage.CORRECTABLE: DeviceControl.CORRECTABLE_REPORTING,
    ErrorMessage.NON_FATAL: DeviceControl.NON_FATAL_REPORTING,
    ErrorMessage.FATAL: DeviceControl.FATAL_REPORTING,
}


def report(config: ConfigSpace, error: PciError, tlp_header: bytes = b"") -> ErrorMessage | None:
    """Records one error, and returns the message that leaves the function: None when it is masked or not enabled.

    LocalError for several errors at once or a header of more than 16 bytes.
    """
    aer = config.find(AdvancedErrorReporting)
    message = _message(aer, error)
    unmasked = aer is None or aer.record(error, tlp_header)
    _show(config, error, message)
    if not unmasked or not _enabled(config, error, message):
        return None
    if message is not ErrorMessage.CORRECTABLE and Command.SERR_ENABLE in config.command:
        config.report_errors(Status.SIGNALED_SYSTEM_ERROR)
    return message


def _message(aer: AdvancedErrorReporting | None, error: PciError) -> ErrorMessage:
    if isinstance(error, CorrectableError):
        return ErrorMessage.CORRECTABLE
    fatal = aer.is_fatal(error) if aer is not None else bool(error & FATAL_AT_RESET)
    return ErrorMessage.FATAL if fatal else ErrorMessage.NON_FATAL


def _show(config: ConfigSpace, error: PciError, message: ErrorMessage) -> None:
    express = config.find(PciExpress)
    if express is not None:
        unsupported = DeviceStatus.UNSUPPORTED_REQUEST if error is UncorrectableError.UNSUPPORTED_REQUEST else 0
        express.set_bits("device_status", _DETECTED[message] | unsupported, True)


def _enabled(config: ConfigSpace, error: PciError, message: ErrorMessage) -> bool:
    if message is not ErrorMessage.CORRECTABLE and Command.SERR_ENABLE in config.command:
        return True
    express = config.find(PciExpress)
    needed = int(_ENABLES[message])
    if error is UncorrectableError.UNSUPPORTED_REQUEST:
        needed |= DeviceControl.UNSUPPORTED_REPORTING
    return express is not None and express.get("device_control") & needed == needed
