from collections.abc import Callable

import pytest

from vfuserver.pci import Command, ConfigSpace, Status
from vfuserver.pci.caps.advanced_error_reporting import AdvancedErrorReporting, CorrectableError, UncorrectableError
from vfuserver.pci.error_report import ErrorMessage, report

Make = Callable[..., ConfigSpace]

DEVICE_CONTROL, DEVICE_STATUS = 0x48, 0x4A
MASK, SEVERITY = 0x108, 0x10C

CASES = [
    (CorrectableError.RECEIVER, 0x1, 0x1, ErrorMessage.CORRECTABLE),
    (UncorrectableError.POISONED_TLP, 0x2, 0x2, ErrorMessage.NON_FATAL),
    (UncorrectableError.MALFORMED_TLP, 0x4, 0x4, ErrorMessage.FATAL),
    (UncorrectableError.UNSUPPORTED_REQUEST, 0xA, 0xA, ErrorMessage.NON_FATAL),
]


@pytest.mark.parametrize(("error", "enables", "shown", "message"), CASES)
def test_report_enabled_leaves_as_its_message(
    extended: Make, error: UncorrectableError, enables: int, shown: int, message: ErrorMessage
) -> None:
    """S2.25, S2.27: DEVSTA shows what was found whether or not DEVCTL lets the message out."""
    config = extended(AdvancedErrorReporting())
    config.write(DEVICE_CONTROL, 2, 0)
    assert report(config, error) is None
    assert config.read(DEVICE_STATUS, 2) == shown
    config.write(DEVICE_CONTROL, 2, enables)
    assert report(config, error) is message
    assert not config.read(6, 2) & Status.SIGNALED_SYSTEM_ERROR


def test_report_unsupported_request_needs_its_own_enable(extended: Make) -> None:
    config = extended(AdvancedErrorReporting())
    config.write(DEVICE_CONTROL, 2, 0x2)
    assert report(config, UncorrectableError.UNSUPPORTED_REQUEST) is None


def test_report_serr_enable_lets_it_out_and_signals(extended: Make) -> None:
    """S2.17: SIGNALED_SYSTEM_ERROR."""
    config = extended(AdvancedErrorReporting())
    config.write(4, 2, Command.SERR_ENABLE)
    assert report(config, CorrectableError.RECEIVER) is None
    assert not config.read(6, 2) & Status.SIGNALED_SYSTEM_ERROR
    assert report(config, UncorrectableError.ECRC) is ErrorMessage.NON_FATAL
    assert config.read(6, 2) & Status.SIGNALED_SYSTEM_ERROR


def test_report_masked_is_detected_and_does_not_leave(extended: Make) -> None:
    config = extended(AdvancedErrorReporting())
    config.write(4, 2, Command.SERR_ENABLE)
    config.write(MASK, 4, UncorrectableError.ECRC)
    assert report(config, UncorrectableError.ECRC) is None
    assert config.read(DEVICE_STATUS, 2) == 0x2


def test_report_severity_is_software_s(extended: Make) -> None:
    config = extended(AdvancedErrorReporting())
    config.write(DEVICE_CONTROL, 2, 0x6)
    config.write(SEVERITY, 4, UncorrectableError.ECRC)
    assert report(config, UncorrectableError.ECRC) is ErrorMessage.FATAL
    assert report(config, UncorrectableError.MALFORMED_TLP) is ErrorMessage.NON_FATAL


def test_report_without_aer_uses_the_first_severities(extended: Make) -> None:
    config = extended()
    config.write(DEVICE_CONTROL, 2, 0x6)
    assert report(config, UncorrectableError.MALFORMED_TLP) is ErrorMessage.FATAL
    assert report(config, UncorrectableError.ECRC) is ErrorMessage.NON_FATAL


def test_report_conventional_function_signals_by_serr_only(make: Make) -> None:
    config = make()
    assert report(config, UncorrectableError.ECRC) is None
    config.write(4, 2, Command.SERR_ENABLE)
    assert report(config, UncorrectableError.ECRC) is ErrorMessage.NON_FATAL
