"""The twin socket: two streams of one session (vfio-user specification, Version; issue 3, S1.14)."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.session.device import SCRATCH, SLOW, LittleDevice
from tests.session.dma import PAGE, asked, failure, map_, read_reply, start
from tests.session.harness import SPECIFIED, Message, Wire, command
from vfuserver._core import Stream
from vfuserver.client import TWIN_PROPOSAL
from vfuserver.session import SessionOptions
from vfuserver.session.commands.version import Version
from vfuserver.session.negotiation import version_data
from vfuserver.session.outgoing import PIECES
from vfuserver.vfio import ANSWERING
from vfuserver.wire import command_message, error_message, reply_message

PROPOSAL = {"max_msg_fds": 8, "twin_socket": {"supported": True}}
READ = command(9)


class Lane:
    """A second stream in memory; its "client's end" is an eventfd, which can be told from everything else."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.flushed = 0
        self.peer = os.eventfd(7)

    def open(self, stream: Stream) -> tuple[int, Callable[[], None]]:
        self.stream = stream
        return self.peer, self._flush

    def _flush(self) -> None:
        self.flushed += 1


class TwinWire(Wire):
    """A client with both sockets."""

    def __init__(self, device: LittleDevice, options: SessionOptions = SPECIFIED, proposal: Any = PROPOSAL) -> None:
        self.lane = Lane()
        super().__init__(device, options, open_lane=self.lane.open)
        self.version = self.negotiate(version_data(proposal))

    def twin(self, data: bytes = b"", fds: tuple[int, ...] = ()) -> list[Message]:
        """Feeds the second stream; what it sends."""
        assert self.lane.stream is not None
        queued = self.lane.stream.take()
        return self._messages(queued + self.lane.stream.feed(data, [os.dup(fd) for fd in fds]))

    def close(self, reason: str = "the test is over") -> None:
        super().close(reason)
        os.close(self.lane.peer)


@pytest.fixture
def wire(device: LittleDevice) -> Iterator[TwinWire]:
    wire = TwinWire(device)
    map_(wire, 0x10000, 16 * PAGE)
    yield wire
    wire.close()


def offered(reply: Message) -> Any:
    capabilities = json.loads(Version.reply.parse(reply.payload).data[:-1]).get("capabilities", {})
    return capabilities.get("twin_socket")


# -- negotiation


def test_reply_carries_the_clients_end_and_its_index(wire: TwinWire) -> None:
    """The specification: supported, and fd_index of a descriptor that comes with the reply."""
    assert offered(wire.version) == {"supported": True, "fd_index": 0}
    assert len(wire.version.fds) == 1
    assert os.eventfd_read(wire.version.fds[0]) == 7


@pytest.mark.parametrize(
    "proposal",
    [
        {"twin_socket": {"supported": True}},
        {"twin_socket": {"supported": True}, "max_data_xfer_size": 1, "pgsizes": 4096},
    ],
)
def test_the_index_alone_may_make_the_reply_longer(device: LittleDevice, proposal: Any) -> None:
    """field-notes C.2: what was opened is said, and other keys go first."""
    wire = TwinWire(device, proposal=proposal)
    assert offered(wire.version) == {"supported": True, "fd_index": 0}
    data = Version.reply.parse(wire.version.payload).data
    assert len(data) <= len(version_data(proposal)) + len(',"fd_index":0')
    wire.close()


@pytest.mark.parametrize(
    ("proposal", "options"),
    [
        ({"twin_socket": {"supported": False}}, SPECIFIED),
        ({"twin_socket": {}}, SPECIFIED),
        ({"max_msg_fds": 8}, SPECIFIED),
        ({**PROPOSAL, "max_msg_fds": 0}, SPECIFIED),
        (PROPOSAL, SessionOptions(twin_socket=False)),
    ],
    ids=["refused", "default", "absent", "no descriptors", "switched off"],
)
def test_without_both_sides_there_is_none(device: LittleDevice, proposal: Any, options: SessionOptions) -> None:
    wire = TwinWire(device, options, proposal)
    assert offered(wire.version) is None
    assert (wire.lane.stream, wire.session.connection.twin, wire.version.fds) == (None, None, ())
    wire.close()


async def test_no_socket_to_be_had_means_none(device: LittleDevice, caplog: pytest.LogCaptureFixture) -> None:
    """The server decides not to enable it; messages go over the main socket."""

    def open_lane(stream: Stream) -> tuple[int, Callable[[], None]]:
        raise OSError(errno.EMFILE, "Too many open files")

    wire = Wire(device, open_lane=open_lane)
    assert offered(wire.negotiate(version_data(PROPOSAL))) is None
    assert "no twin socket: Too many open files" in caplog.text
    map_(wire, 0, PAGE)
    task = await start(wire.session.connection.memory.read(0, 1))
    (message,) = wire.take()
    wire.reply(message, read_reply(message, b"x"))
    assert await task == b"x"
    wire.close()


# -- who speaks where


async def test_messages_go_over_the_twin_socket_alone(wire: TwinWire) -> None:
    """The specification, DMA_READ and DMA_WRITE."""
    task = await start(wire.session.connection.memory.read(0x10000, 5))
    assert (wire.outputs, wire.take()) == (0, [])
    assert wire.lane.flushed
    (message,) = wire.twin()
    assert asked(message) == (11, 0x10000, 5)
    reply = reply_message(11, message.header.message_id, read_reply(message, b"hello"))
    assert wire.twin(reply[:20]) == []
    assert wire.twin(reply[20:]) == []
    assert await task == b"hello"


async def test_an_error_reply_is_eio(wire: TwinWire) -> None:
    task = await start(wire.session.connection.memory.write(0x10000, b"x"))
    wire.twin(error_message(12, wire.twin()[0].header.message_id, errno.EPERM))
    assert await failure(task) == errno.EIO


async def test_question_for_the_layout_goes_there_too(device: LittleDevice) -> None:
    """S0.14."""
    wire = TwinWire(device, SessionOptions(), TWIN_PROPOSAL)
    map_(wire, 0, PAGE)
    task = await start(wire.session.connection.memory.read(0, 1))
    (probe,) = wire.twin()
    assert asked(probe) == (12, 0, 0)
    (message,) = wire.twin(reply_message(12, probe.header.message_id, bytes(16)))
    wire.twin(reply_message(11, message.header.message_id, read_reply(message, b"x")))
    assert await task == b"x"
    wire.close()


async def test_messages_do_not_wait_until_a_held_command_is_answered(wire: TwinWire, device: LittleDevice) -> None:
    """On one socket they do (tests/session/test_memory.py); here the two never meet."""
    assert wire.send(9, READ.request.pack(SLOW, 0, 4)) == []
    task = await start(wire.session.connection.memory.read(0x10000, 2))
    (message,) = wire.twin()
    wire.twin(reply_message(11, message.header.message_id, read_reply(message, b"ok")))
    assert await task == b"ok"
    assert device.later
    device.later.set_result(7)
    assert wire.take()[0].payload[-4:] == b"\7\0\0\0"


async def test_code_that_a_command_waits_for_still_gets_edeadlk(wire: TwinWire) -> None:
    """Issue 4: impossible, whatever the client; nobody says that it serves its two sockets in two threads."""
    token = ANSWERING.set(True)
    task = await start(wire.session.connection.memory.read(0x10000, 2))
    ANSWERING.reset(token)
    assert await failure(task) == errno.EDEADLK
    assert wire.twin() == []


# -- what is in the wrong place


async def test_a_reply_on_the_main_socket_fails_its_transfer(wire: TwinWire, caplog: pytest.LogCaptureFixture) -> None:
    tasks = [await start(wire.session.connection.memory.read(0x10000 + i, 1)) for i in range(PIECES + 1)]
    first, second = wire.twin()[:2]
    assert wire.reply(first, read_reply(first, b"x")) == []
    assert await failure(tasks[0]) == errno.EIO
    assert "came on the main socket, must come on the twin socket" in caplog.text
    (next_in_line,) = wire.twin(reply_message(11, second.header.message_id, read_reply(second, b"y")))[-1:]
    assert asked(next_in_line)[1] == 0x10000 + PIECES
    assert await tasks[1] == b"y"
    assert not wire.ask(READ, READ.request.pack(SCRATCH, 0, 4)).errno
    wire.session.close("gone")
    assert {await failure(task) for task in tasks[2:]} == {errno.ENODEV}


@pytest.mark.parametrize("number", [1, 2, 4, 9, 10, 11, 13, 15, 999])
def test_a_command_on_the_twin_socket_is_einval_and_not_done(wire: TwinWire, device: LittleDevice, number: int) -> None:
    """Its descriptors are closed (the leak fixture counts)."""
    log, payload = list(device.log), READ.request.pack(SCRATCH, 0, 4) + bytes(32)
    (reply,) = wire.twin(command_message(number, 5, payload), (wire.lane.peer,))
    assert (reply.errno, reply.header.message_id, reply.payload) == (errno.EINVAL, 5, b"")
    assert device.log == log
    assert wire.session.connection.ioas.count == 1
    assert wire.session.broken is None


@pytest.mark.parametrize("size", [0, 15, 0xFFFFFFFF])
def test_a_message_that_cannot_be_breaks_the_connection(wire: TwinWire, size: int) -> None:
    """Framing holds on both."""
    wire.twin((11).to_bytes(4, "little") + size.to_bytes(4, "little") + bytes(8))
    assert wire.session.stream.broken is None
    assert "message size" in (wire.session.broken or "")


async def test_limit_of_a_message_holds_on_both(device: LittleDevice) -> None:
    """S1.14."""
    wire = TwinWire(device, SessionOptions(max_data_xfer_size=8192), {**PROPOSAL, "max_data_xfer_size": 8192})
    for stream in (wire.session.stream, wire.lane.stream):
        assert stream is not None
        assert stream.max_transfer == 8192
    wire.close()


async def test_close_ends_both_and_what_is_under_way(wire: TwinWire) -> None:
    task = await start(wire.session.connection.memory.read(0x10000, 2))
    wire.session.close("gone")
    assert await failure(task) == errno.ENODEV
    assert wire.lane.stream is not None
    assert wire.lane.stream.broken == "closed"


async def test_an_unmapped_range_fails_although_its_data_is_on_the_way(wire: TwinWire) -> None:
    """S1.9: the reply to UNMAP comes on one socket while data is under way on the other; that is dropped."""
    unmap = command(3)
    task = await start(wire.session.connection.memory.read(0x10000, 2))
    (message,) = wire.twin()
    assert not wire.ask(unmap, unmap.request.pack(24, 0, 0x10000, 16 * PAGE)).errno
    assert wire.twin(reply_message(11, message.header.message_id, read_reply(message, b"no"))) == []
    assert await failure(task) == errno.EFAULT
