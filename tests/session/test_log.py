"""A client that errs in a loop does not fill the log: so many lines in a while, and how many there were besides."""

import logging

import pytest

from tests.session.device import FAILING, LittleDevice
from tests.session.harness import Wire, command
from vfuserver.session.log import BURST, PERIOD, ConnectionLog

UNKNOWN, RESET, READ = 99, command(13), command(9)


class StandingClock:
    """Monotonic seconds, by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [message for message in caplog.messages if text in message]


def test_refusals_without_end_are_counted_and_not_written(
    device: LittleDevice, caplog: pytest.LogCaptureFixture
) -> None:
    """None is lost without a trace: what is not written is in the count."""
    wire = Wire(device)
    wire.negotiate()
    for _ in range(1000):
        assert wire.send(UNKNOWN)[0].errno
    assert len(lines(caplog, "command 99 refused")) == BURST
    wire.close()
    assert len(lines(caplog, f"{1000 - BURST} more lines about this client were not written")) == 1


def test_every_kind_of_line_that_a_client_provokes_counts(
    device: LittleDevice, caplog: pytest.LogCaptureFixture
) -> None:
    """Refusals, exceptions of hooks with their tracebacks, and replies to nothing share one allowance."""
    wire = Wire(device)
    wire.negotiate()
    for _ in range(BURST):
        wire.send(UNKNOWN)
        wire.ask(READ, READ.request.pack(FAILING, 0, 4))
        wire.reply(wire.ask(RESET))
    written = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(written) == BURST
    assert len({record.msg for record in written}) == 3
    wire.close()
    assert lines(caplog, f"{2 * BURST} more lines")


def test_another_connection_has_its_own_allowance(device: LittleDevice, caplog: pytest.LogCaptureFixture) -> None:
    first = Wire(device)
    first.negotiate()
    for _ in range(2 * BURST):
        first.send(UNKNOWN)
    first.close()
    second = Wire(device)
    second.negotiate()
    second.send(UNKNOWN)
    assert len(lines(caplog, f"{second.session.label}: command 99 refused")) == 1
    second.close()


def test_allowance_comes_back_and_what_was_withheld_is_said_first(caplog: pytest.LogCaptureFixture) -> None:
    clock = StandingClock()
    log = ConnectionLog("edu", clock)
    for number in range(BURST + 3):
        log.provoked(logging.WARNING, "line %d", number)
    clock.now += PERIOD
    log.provoked(logging.WARNING, "later")
    assert len(caplog.messages) == BURST + 2
    assert caplog.messages[-2:] == [
        f"{log.label}: 3 more lines about this client were not written ({BURST} in {PERIOD:g} s are)",
        f"{log.label}: later",
    ]
    log.tell_withheld()
    assert len(caplog.messages) == BURST + 2


def test_lines_below_the_level_use_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    """What nobody reads hides nothing."""
    log = ConnectionLog("edu", StandingClock())
    for _ in range(2 * BURST):
        log.provoked(logging.DEBUG, "expected")
    log.provoked(logging.WARNING, "unexpected")
    assert caplog.messages == [f"{log.label}: unexpected"]
