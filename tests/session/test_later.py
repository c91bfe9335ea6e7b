"""Answers that come later: architecture, Answering later; field-notes G (a late reply kills the connection)."""

import errno
import logging

import pytest

from tests.session.device import FAILING, ODD, SCRATCH, SLOW, LittleDevice
from tests.session.harness import Message, Wire, command
from vfuserver.errors import CommandError, LocalError
from vfuserver.session import SessionOptions, State
from vfuserver.vfio import Later, ResetReason
from vfuserver.wire import NO_REPLY

READ, WRITE, RESET, INFO = command(9), command(10), command(13), command(4)


def read(offset: int) -> bytes:
    return READ.request.pack(offset, 0, 4)


def write(offset: int, value: int) -> bytes:
    return WRITE.request.build(offset=offset, region=0, data=value.to_bytes(4, "little"))


def value_of(message: Message) -> int:
    assert not message.errno
    return int.from_bytes(READ.reply.parse(message.payload).data, "little")


def test_slow_register_holds_the_connection_until_it_answers(wire: Wire, device: LittleDevice) -> None:
    assert wire.send(9, read(SLOW)) == []
    assert wire.send(9, read(SCRATCH)) == []
    assert wire.session.state is State.HELD
    assert device.later is not None
    device.later.set_result(0x1234)
    slow, scratch = wire.take()
    assert (value_of(slow), value_of(scratch)) == (0x1234, 0)
    assert wire.outputs == 1
    assert not wire.ask(INFO, INFO.request.pack(16, 0, 0, 0)).errno


def test_slow_write_is_answered_when_it_is_done(wire: Wire, device: LittleDevice) -> None:
    assert wire.send(10, write(SLOW, 7)) == []
    assert device.later is not None
    device.later.set_result(None)
    (reply,) = wire.take()
    assert not reply.errno
    assert device.regions[0].table is not None
    assert device.regions[0].table.get(2) == 7


def test_slow_register_that_misses_its_deadline_is_etimedout(
    wire: Wire, device: LittleDevice, caplog: pytest.LogCaptureFixture
) -> None:
    wire.send(9, read(SLOW))
    wire.clock.advance(3.9)
    assert wire.take() == []
    wire.clock.advance(0.2)
    (reply,) = wire.take()
    assert reply.errno == errno.ETIMEDOUT
    assert device.log[-1] == "cancelled"
    assert "little#" in caplog.text
    assert "no answer within 4 s" in caplog.text
    assert wire.session.state is State.READY


def test_an_answer_after_the_deadline_is_dropped(wire: Wire, device: LittleDevice) -> None:
    wire.send(9, read(SLOW))
    later = device.later
    wire.clock.advance(4)
    assert later is not None
    later.set_result(1)
    assert len(wire.take()) == 1
    assert not wire.ask(READ, read(SCRATCH)).errno


def test_the_deadline_is_an_option(device: LittleDevice) -> None:
    wire = Wire(device, SessionOptions(deadline=0.5))
    wire.negotiate()
    wire.send(9, read(SLOW))
    wire.clock.advance(0.5)
    assert wire.take()[0].errno == errno.ETIMEDOUT
    wire.close()


def test_an_answer_in_time_stops_the_clock(wire: Wire, device: LittleDevice) -> None:
    wire.send(9, read(SLOW))
    assert device.later is not None
    device.later.set_result(1)
    wire.take()
    wire.clock.advance(10)
    assert wire.take() == []
    assert "cancelled" not in device.log


@pytest.mark.parametrize(
    ("error", "expected"),
    [(CommandError(errno.EBUSY, "busy"), errno.EBUSY), (RuntimeError("boom"), errno.EIO), (LocalError("x"), errno.EIO)],
)
def test_slow_register_that_fails_is_an_error_reply(
    wire: Wire, device: LittleDevice, error: Exception, expected: int
) -> None:
    wire.send(9, read(SLOW))
    assert device.later is not None
    device.later.set_error(error)
    assert wire.take()[0].errno == expected


def test_slow_register_without_reply_is_silent_but_still_holds(wire: Wire, device: LittleDevice) -> None:
    assert wire.send(10, write(SLOW, 1), flags=NO_REPLY) == []
    assert wire.send(9, read(SCRATCH)) == []
    assert device.later is not None
    device.later.set_result(None)
    assert len(wire.take()) == 1


def test_one_answer_after_the_other(wire: Wire, device: LittleDevice) -> None:
    """The commands that waited are served, and the next one may be slow too."""
    for _ in range(3):
        assert wire.send(9, read(SLOW)) == []
    for value in (1, 2, 3):
        assert device.later is not None
        device.later.set_result(value)
        (reply,) = wire.take()
        assert value_of(reply) == value


def test_reset_may_answer_later(wire: Wire, device: LittleDevice) -> None:
    """S3.6: the reply comes when the reset is complete."""
    device.reset_later = Later("little: reset")
    assert wire.send(13) == []
    assert device.log[-1] is ResetReason.MESSAGE
    device.reset_later.set_result(None)
    (reply,) = wire.take()
    assert (reply.header.command, reply.errno, reply.payload) == (13, 0, b"")


def test_reset_that_is_complete_already_is_answered_in_the_same_feed(wire: Wire, device: LittleDevice) -> None:
    device.reset_later = Later("little: reset")
    device.reset_later.set_result(None)
    assert wire.ask(RESET).errno == 0
    assert wire.ask(RESET).errno == 0
    assert wire.outputs == 0


def test_reset_at_once_is_answered_at_once(wire: Wire, device: LittleDevice) -> None:
    assert wire.ask(RESET).payload == b""
    assert device.log == ["attach", ResetReason.MESSAGE]


def test_reset_that_misses_its_deadline_is_etimedout(wire: Wire, device: LittleDevice) -> None:
    stopped: list[int] = []
    device.reset_later = Later("little: reset", on_cancel=lambda: stopped.append(1))
    wire.send(13)
    wire.clock.advance(4)
    assert wire.take()[0].errno == errno.ETIMEDOUT
    assert stopped == [1]


def test_stopping_that_fails_is_logged_and_answered_all_the_same(
    wire: Wire, device: LittleDevice, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("cannot stop")

    device.reset_later = Later("little: reset", on_cancel=fail)
    wire.send(13)
    wire.clock.advance(4)
    assert wire.take()[0].errno == errno.ETIMEDOUT
    assert "cannot stop" in caplog.text


def test_close_while_held_stops_the_work_and_answers_nothing(wire: Wire, device: LittleDevice) -> None:
    wire.send(9, read(SLOW))
    later = device.later
    wire.close()
    assert device.log[-2:] == ["cancelled", "detach"]
    assert later is not None
    later.set_result(1)
    wire.clock.advance(10)
    assert wire.outputs == 0


def test_a_hook_that_returns_nonsense_is_eio(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    assert wire.ask(READ, read(ODD)).errno == errno.EIO
    assert "'nonsense'" in caplog.text
    assert not wire.ask(READ, read(SCRATCH)).errno
    assert wire.outputs == 0


def test_a_hook_that_raises_is_eio_with_a_traceback_in_the_log(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """Issue 2: the server stays alive."""
    assert wire.ask(READ, read(FAILING)).errno == errno.EIO
    assert "BAR0+0xc failed" in caplog.text
    assert "a hook went wrong" in caplog.text
    assert "Traceback" in caplog.text
    assert not wire.ask(READ, read(SCRATCH)).errno


def test_a_hook_that_refuses_is_its_errno(wire: Wire) -> None:
    assert wire.ask(WRITE, write(FAILING, 1)).errno == errno.EBUSY


def test_a_reset_that_raises_is_eio_with_a_traceback_in_the_log(
    wire: Wire, device: LittleDevice, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("no reset today")

    device.on_reset = fail
    assert wire.ask(RESET).errno == errno.EIO
    assert "no reset today" in caplog.text
    assert not wire.ask(INFO, INFO.request.pack(16, 0, 0, 0)).errno


def test_a_refused_command_is_logged_with_device_command_and_reason(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    wire.ask(INFO, INFO.request.pack(15, 0, 0, 0))
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.name == "vfuserver.session.little"
    assert (
        record.getMessage() == f"{wire.session.label}: DEVICE_GET_INFO refused: EINVAL: argsz 15, must be at least 16"
    )


def test_a_handler_that_takes_long_is_a_warning(
    wire: Wire, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S1.11: warn in the log, the client waits 5 s."""
    monkeypatch.setattr("vfuserver.session.session.SLOW", -1.0)
    wire.ask(INFO, INFO.request.pack(16, 0, 0, 0))
    assert "DEVICE_GET_INFO took 0.0 s" in caplog.text


def test_an_unmap_of_nothing_is_no_warning(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """field-notes G: QEMU with a vIOMMU sends 28 of them at a time."""
    unmap = command(3)
    assert wire.ask(unmap, unmap.request.pack(24, 0, 0, 4096)).errno == errno.ENOENT
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
