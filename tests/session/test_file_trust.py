"""Memory files that the client has mapped privately: `memory-backend-file` without share=on (field-notes G)."""

import errno
import logging
import mmap
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.session.device import LittleDevice
from tests.session.dma import READ, WRITE, asked, map_, read_reply, start
from tests.session.harness import Wire
from vfuserver.session import SessionOptions
from vfuserver.session.negotiation import version_data
from vfuserver.wire import error_message

PAGE = mmap.PAGESIZE


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("trust-test")
    os.ftruncate(fd, PAGE)
    yield fd
    os.close(fd)


def suspicious(device: LittleDevice, memfd: int, quirk: str = "compare", **ports: Any) -> Wire:
    """A connection of a client that looks like QEMU, with one page mapped at 0x10000."""
    wire = Wire(device, SessionOptions(quirks={"message-dma": "spec", "private-memory": quirk}), **ports)
    wire.negotiate()
    map_(wire, 0x10000, PAGE, fds=(memfd,))
    return wire


def serve(wire: Wire, seen: bytearray) -> list[int]:
    """Answers DMA messages from what the client's guest sees until none comes; the commands, in order."""
    commands = []
    messages = wire.take()
    while messages:
        message = messages.pop(0)
        number, address, count = asked(message)
        commands.append(number)
        at = address - 0x10000
        if number == READ.number:
            messages += wire.reply(message, read_reply(message, bytes(seen[at : at + count])))
        else:
            seen[at : at + count] = message.payload[WRITE.request.size :]
            messages += wire.reply(message, WRITE.request.pack(address, count))
    return commands


async def served(wire: Wire, seen: bytearray, work: Any) -> tuple[Any, list[int]]:
    """(what `work` returned, the commands that the client was sent)."""
    task, commands = await start(work), []
    for _ in range(8):
        commands += serve(wire, seen)
        await start(noop())
    return await task, commands


async def noop() -> None:
    """Lets the loop turn."""


async def test_nonzero_bytes_that_agree_prove_a_file(device: LittleDevice, memfd: int) -> None:
    wire, seen = suspicious(device, memfd), bytearray(PAGE)
    memory = wire.session.connection.memory
    assert await served(wire, seen, memory.read(0x10000, 4)) == (bytes(4), [READ.number])  # zeros prove nothing
    seen[:4] = b"same"
    os.pwrite(memfd, b"same", 0)
    assert await served(wire, seen, memory.read(0x10000, 4)) == (b"same", [READ.number])
    assert await served(wire, seen, memory.read(0x10000, 4)) == (b"same", [])
    assert memory.read_now(0x10000, 4) == b"same"
    wire.close()


async def test_bytes_written_and_read_back_by_message_prove_a_file(device: LittleDevice, memfd: int) -> None:
    wire = suspicious(device, memfd)
    memory = wire.session.connection.memory
    with mmap.mmap(memfd, PAGE) as seen:
        for wanted in ([READ.number] * 2, []):
            _, commands = await served(wire, seen, memory.write(0x10010, b"hello"))  # type: ignore[arg-type]
            assert commands == wanted
            assert seen[0x10:0x15] == b"hello"
    wire.close()


async def test_first_bytes_that_differ_make_a_file_message_only_and_say_so(
    device: LittleDevice, memfd: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The transfer is repeated by message; from then on there is no mapping for anybody."""
    wire, seen = suspicious(device, memfd), bytearray(b"guest".ljust(PAGE))
    memory = wire.session.connection.memory
    assert await served(wire, seen, memory.read(0x10000, 5)) == (b"guest", [READ.number])
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "share=on" in record.message
    assert f"inode {os.fstat(memfd).st_ino}" in record.message
    assert await served(wire, seen, memory.write(0x10000, b"dev")) == (None, [WRITE.number])
    assert (bytes(seen[:5]), os.pread(memfd, 3, 0)) == (b"devst", bytes(3))
    wire.close()


async def test_write_that_the_client_does_not_see_is_repeated_by_message(device: LittleDevice, memfd: int) -> None:
    wire, seen = suspicious(device, memfd), bytearray(PAGE)
    _, commands = await served(wire, seen, wire.session.connection.memory.write(0x10000, b"lost?"))
    assert commands == [READ.number, READ.number, WRITE.number]
    assert seen[:5] == b"lost?"
    wire.close()


async def test_bytes_that_were_there_before_prove_nothing(device: LittleDevice, memfd: int) -> None:
    wire, seen = suspicious(device, memfd), bytearray(PAGE)
    memory = wire.session.connection.memory
    for _ in range(2):
        assert (await served(wire, seen, memory.write(0x10000, bytes(8))))[1] == [READ.number] * 2
    wire.close()


async def test_client_that_refuses_the_message_proves_nothing(device: LittleDevice, memfd: int) -> None:
    wire = suspicious(device, memfd)
    memory = wire.session.connection.memory
    os.pwrite(memfd, b"file", 0)
    for _ in range(2):
        task = await start(memory.read(0x10000, 4))
        wire.feed(error_message(READ.number, wire.take()[0].header.message_id, errno.ENODEV))
        assert await task == b"file"
    wire.close()


@pytest.mark.parametrize(("flags", "expected"), [(mmap.MAP_SHARED, b"file"), (mmap.MAP_PRIVATE, b"mine")])
async def test_client_s_own_mappings_settle_it_without_a_comparison(
    device: LittleDevice, memfd: int, flags: int, expected: bytes
) -> None:
    """The client is a child that maps the file its way before it is asked."""
    os.pwrite(memfd, b"file", 0)
    child, ready = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        mapping = mmap.mmap(memfd, PAGE, flags=flags)
        os.write(ready[1], b"x")
        os.read(child[0], 1)
        mapping.close()
        os._exit(0)
    os.read(ready[0], 1)
    wire = suspicious(device, memfd, "auto", peer_pid=pid)
    result, commands = await served(wire, bytearray(b"mine"), wire.session.connection.memory.read(0x10000, 4))
    assert (result, commands) == (expected, [] if expected == b"file" else [READ.number])
    os.write(child[1], b"x")
    os.waitpid(pid, 0)
    for fd in (*child, *ready):
        os.close(fd)
    wire.close()


async def test_client_that_is_not_qemu_is_believed(device: LittleDevice, memfd: int) -> None:
    wire = Wire(device, SessionOptions(quirks={"private-memory": "compare"}))
    wire.negotiate(version_data({"max_data_xfer_size": 1 << 20}))
    map_(wire, 0x10000, PAGE, fds=(memfd,))
    assert wire.session.connection.memory.read_now(0x10000, 4) == bytes(4)
    wire.close()


async def test_everything_can_be_reached_by_messages(device: LittleDevice, memfd: int) -> None:
    wire = Wire(device, SessionOptions(quirks={"private-memory": "messages"}))
    wire.negotiate(version_data({"max_data_xfer_size": 1 << 20}))
    map_(wire, 0x10000, PAGE, fds=(memfd,))
    seen = bytearray(b"told".ljust(PAGE))
    assert await served(wire, seen, wire.session.connection.memory.read(0x10000, 4)) == (b"told", [READ.number])
    wire.close()


async def test_a_file_can_be_believed_by_configuration(device: LittleDevice, memfd: int) -> None:
    wire = suspicious(device, memfd, "trust")
    assert wire.session.connection.memory.read_now(0x10000, 4) == bytes(4)
    wire.close()
