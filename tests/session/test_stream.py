"""One byte at a time, in one batch, and garbage: the same replies, an error or a closed connection, never more."""

import errno
import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.session.device import COUNTER, FAILING, SCRATCH, LittleDevice
from tests.session.harness import QEMU_JSON, Message, Wire, command
from vfuserver.session import State
from vfuserver.session.commands.version import Version
from vfuserver.wire import HEADER, NO_REPLY, command_message

PAGE = 4096


def a_session() -> list[tuple[bytes, bool]]:
    """A whole session as (message, comes with a memory descriptor)."""
    read, write, multi, map_, unmap = (command(number) for number in (9, 10, 15, 2, 3))
    writes = [{"offset": SCRATCH, "region": 0, "count": 4, "data": bytes([i] * 8)} for i in range(3)]
    return [
        (command_message(1, 1, Version.request.build(major=0, minor=0, data=QEMU_JSON)), False),
        (command_message(2, 2, map_.request.pack(32, 3, 0, 0, PAGE)), True),
        (command_message(2, 3, map_.request.pack(32, 3, 0, 0, PAGE)), True),
        (command_message(4, 4, command(4).request.pack(16, 0, 0, 0)), False),
        *((command_message(5, 5, command(5).request.pack(96, 0, i, 0, 0, 0)), False) for i in range(9)),
        (command_message(7, 6, command(7).request.pack(16, 0, 2, 0)), False),
        (command_message(9, 7, read.request.pack(0, 7, 256)), False),
        (command_message(10, 8, write.request.build(offset=SCRATCH, region=0, data=b"abcd"), NO_REPLY), False),
        (command_message(9, 9, read.request.pack(SCRATCH, 0, 4)), False),
        (command_message(15, 10, multi.request.build(wrs=writes)), False),
        (command_message(9, 11, read.request.pack(COUNTER, 0, 4)), False),
        (command_message(9, 12, read.request.pack(FAILING, 0, 4)), False),
        (command_message(14, 13, b"?"), False),
        (command_message(16, 14, command(16).request.build(argsz=8, flags=1, data=b"")), False),
        (
            command_message(8, 15, command(8).request.build(argsz=20, flags=33, index=2, start=0, count=0, data=b"")),
            False,
        ),
        (command_message(13, 16), False),
        (command_message(3, 17, unmap.request.pack(24, 2, 0, 0)), False),
        (command_message(1, 18, bytes(4)), False),
    ]


def seen(messages: list[Message]) -> list[tuple[object, bytes, int]]:
    return [(message.header, message.payload, len(message.fds)) for message in messages]


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def other() -> Iterator[Wire]:
    device = LittleDevice()
    wire = Wire(device)
    yield wire
    wire.close()
    device.close()


def test_one_byte_at_a_time_gives_the_same_replies(fresh: Wire, other: Wire, memory: int) -> None:
    """Issue 2: a message fed one byte at a time."""
    whole, bytewise = [], []
    for message, with_fd in a_session():
        fds = [memory] if with_fd else []
        whole += fresh.feed(message, fds)
        for i in range(len(message)):
            last = i == len(message) - 1
            bytewise += other.feed(message[i : i + 1], fds if last else [])
    assert seen(whole) == seen(bytewise)
    assert [message.errno for message in whole].count(0) == len(whole) - 5


def test_one_batch_gives_the_same_replies(fresh: Wire, other: Wire, memory: int) -> None:
    single, batched, pending = [], [], b""
    for message, with_fd in a_session():
        fds = [memory] if with_fd else []
        single += fresh.feed(message, fds)
        pending += message
        if with_fd:  # Linux ends a recvmsg after the buffer that carried descriptors (field-notes G)
            batched += other.feed(pending, fds)
            pending = b""
    batched += other.feed(pending)
    assert seen(single) == seen(batched)


def test_replies_come_in_the_order_of_the_commands(wire: Wire) -> None:
    """Issue 2: 1000 pipelined messages in one write."""
    read = command(9).request
    data = b"".join(command_message(9, i, read.pack(COUNTER, 0, 4)) for i in range(1000))
    replies = wire.feed(data)
    assert [reply.header.message_id for reply in replies] == list(range(1000))
    assert [int.from_bytes(reply.payload[16:], "little") for reply in replies] == list(range(1, 1001))


def test_message_ids_may_repeat(wire: Wire) -> None:
    """vfio-user specification, Header: the receiver makes no assumptions."""
    info = command_message(4, 9, command(4).request.pack(16, 0, 0, 0))
    assert [reply.header.message_id for reply in wire.feed(info * 3)] == [9, 9, 9]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(HEADER.pack(1, 4, 15, 0, 0), id="shorter than a header"),
        pytest.param(HEADER.pack(1, 4, 0, 0, 0), id="size 0"),
        pytest.param(HEADER.pack(1, 4, 0xFFFFFFFF, 0, 0), id="4 GiB"),
        pytest.param(HEADER.pack(1, 10, 16 + 16 + 1048577, 0, 0), id="a byte too many"),
        pytest.param(HEADER.pack(1, 4, 32, 2, 0), id="type 2"),
    ],
)
def test_a_header_that_cannot_be_closes_before_it_is_buffered(wire: Wire, header: bytes) -> None:
    """Issue 2: an oversized message closes the connection before it is buffered."""
    assert wire.feed(header) == []
    assert wire.session.stream.broken


def test_a_reply_to_nothing_is_dropped(wire: Wire, memory: int, caplog: pytest.LogCaptureFixture) -> None:
    reply = HEADER.pack(7, 11, 16, 1, 0)
    assert wire.feed(reply, [memory]) == []
    assert "which we never sent" in caplog.text
    assert not wire.send(13)[0].errno


MESSAGES = st.tuples(
    st.integers(0, 20),
    st.binary(max_size=64),
    st.sampled_from([0, 0, 0, NO_REPLY, 1, 0x21, 2, 0x40]),
    st.integers(0, 2),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(MESSAGES, max_size=8))
def test_random_messages_never_do_more_than_err(messages: list[tuple[int, bytes, int, int]]) -> None:
    """Issue 2: short, oversized, wrong-type and random messages."""
    device = LittleDevice()
    wire = Wire(device)
    wire.negotiate()
    for number, payload, flags, fds in messages:
        assert len(wire.feed(command_message(number, 5, payload, flags), [device.fd] * fds)) <= 1
        if device.later:
            device.later.set_result(0)
            wire.take()
    wire.close()
    device.close()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_never_do_more_than_err(data: bytes) -> None:
    device = LittleDevice()
    wire = Wire(device)
    wire.feed(data)
    wire.close()
    device.close()


def test_an_access_served_by_a_callable_reaches_the_device(wire: Wire, device: LittleDevice) -> None:
    read = command(9)
    reply = wire.ask(read, read.request.pack(3, 1, 5))
    assert read.reply.parse(reply.payload).data == b"\3" * 5
    assert device.log[-1] == ("access", 3, 5, None)
    assert wire.ask(read, read.request.pack(60, 1, 5)).errno == errno.EINVAL


def test_close_is_final_and_idempotent(wire: Wire, device: LittleDevice) -> None:
    wire.close()
    wire.close()
    assert wire.session.closed
    assert wire.session.state is State.CLOSED
    assert device.log == ["attach", "detach"]


def test_close_before_version_does_not_detach(fresh: Wire, device: LittleDevice) -> None:
    fresh.close()
    assert device.log == []


def test_close_unmaps_and_keeps_the_devices_state(wire: Wire, device: LittleDevice, memory: int) -> None:
    """vfio-user specification, Client Disconnection."""
    wire.ask(command(10), command(10).request.build(offset=SCRATCH, region=0, data=b"abcd"))
    wire.ask(command(2), command(2).request.pack(32, 3, 0, 0, PAGE), [memory])
    ioas = wire.session.connection.ioas
    wire.close()
    assert ioas.count == 0
    again = Wire(device)
    again.negotiate()
    read = command(9)
    assert again.ask(read, read.request.pack(SCRATCH, 0, 4)).payload.endswith(b"abcd")
    again.close()


def test_a_device_that_cannot_detach_is_logged(
    wire: Wire, device: LittleDevice, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("stuck")

    device.detach = fail  # type: ignore[method-assign]
    wire.close()
    assert "stuck" in caplog.text
    assert wire.session.closed
