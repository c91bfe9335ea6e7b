"""Quirks: one table, and what each value does on the wire: S0.14, field-notes C.8 and C.10."""

import errno
import struct
from typing import Any

import pytest

from tests.session.device import FAILING, SCRATCH, SLOW, LittleDevice
from tests.session.dma import PAGE, READ, WRITE, asked, failure, map_, read_reply, start
from tests.session.harness import Wire, command
from vfuserver.errors import UsageError
from vfuserver.session import SessionOptions
from vfuserver.session.negotiation import version_data
from vfuserver.session.quirks import QUIRKS
from vfuserver.wire import NO_REPLY, error_message


def peculiar(device: LittleDevice, **quirks: str) -> Wire:
    """A negotiated connection with quirks, their names with underscores."""
    given = {name.replace("_", "-"): value for name, value in quirks.items()}
    wire = Wire(device, SessionOptions(quirks=given))
    wire.negotiate()
    return wire


# -- the table


@pytest.mark.parametrize("name", QUIRKS)
def test_every_quirk_says_why_and_how(name: str) -> None:
    quirk = QUIRKS[name]
    assert quirk.default in quirk.values
    assert len(quirk.values) > 1
    assert all([quirk.reason, quirk.found, *quirk.values.values()])
    assert SessionOptions().quirks[name] == quirk.default


@pytest.mark.parametrize("given", [{"message-dma": "new"}, {"message_dma": "old"}, {"": ""}, {"message-dma": ["old"]}])
def test_a_quirk_that_is_not_there_is_refused_with_those_that_are(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"quirk .*must be .*(message-dma|auto or spec or old)"):
        SessionOptions(quirks=given)


# -- message-dma


async def test_auto_asks_once_before_the_first_message(device: LittleDevice) -> None:
    """S0.14: a write of no bytes, at an address that the client has offered; nothing else until it is answered."""
    wire = peculiar(device, message_dma="auto")
    map_(wire, 0x10000, PAGE)
    memory = wire.session.connection.memory
    tasks = [await start(memory.read(0x10010, 5)), await start(memory.write(0x10020, b"hello"))]
    (probe,) = wire.take()
    assert asked(probe) == (WRITE.number, 0x10010, 0)
    assert len(probe.payload) == 16
    read, write = wire.reply(probe, probe.payload)
    assert (read.payload, write.payload[:16]) == (READ.request.pack(0x10010, 5), WRITE.request.pack(0x10020, 5))
    assert write.payload[16:] == b"hello"
    wire.reply(read, read_reply(read, b"HELLO"))
    wire.reply(write, write.payload[:16])
    assert [await task for task in tasks] == [b"HELLO", None]
    await start(memory.read(0x10010, 1))
    assert asked(wire.take()[0]) == (READ.number, 0x10010, 1)
    wire.close()


@pytest.mark.parametrize("quirk", ["auto", "old"])
async def test_old_layout_has_its_data_at_message_byte_28(device: LittleDevice, quirk: str) -> None:
    """S0.14: the first upstream QEMU; every message is as long as the specification's."""
    wire = peculiar(device, message_dma=quirk)
    map_(wire, 0x10000, PAGE)
    memory = wire.session.connection.memory
    task = await start(memory.write(0x10010, b"hello"))
    messages = wire.take()
    if quirk == "auto":
        messages = wire.reply(messages[0])
    (write,) = messages
    assert write.payload == struct.pack("=QI", 0x10010, 5) + b"hello" + bytes(4)
    wire.reply(write)
    await task
    task = await start(memory.read(0x10010, 5))
    (read,) = wire.take()
    assert read.payload == struct.pack("=QI", 0x10010, 5) + bytes(4)
    wire.reply(read, struct.pack("=QI", 0x10010, 5) + b"HELLO" + bytes(4))
    assert await task == b"HELLO"
    wire.close()


async def test_a_question_that_is_refused_proves_nothing_and_is_asked_again(device: LittleDevice) -> None:
    """S0.14, field-notes G: QEMU refuses every message while it has bus mastering off."""
    wire = peculiar(device, message_dma="auto")
    map_(wire, 0, PAGE)
    task = await start(wire.session.connection.memory.write(0, b"x"))
    assert wire.feed(error_message(12, wire.take()[0].header.message_id, errno.ENODEV)) == []
    assert await failure(task) == errno.EIO
    task = await start(wire.session.connection.memory.write(0, b"x"))
    (write,) = wire.reply(wire.take()[0])
    assert write.payload == struct.pack("=QI", 0, 1) + b"x" + bytes(4)
    wire.reply(write)
    await task
    wire.close()


async def test_a_client_that_is_not_qemu_is_asked_nothing(device: LittleDevice) -> None:
    """S0.14: no other client ever had another layout than the specification's."""
    wire = Wire(device, SessionOptions(quirks={"message-dma": "auto"}))
    wire.negotiate(version_data({"max_data_xfer_size": 1 << 20}))
    map_(wire, 0, PAGE)
    task = await start(wire.session.connection.memory.write(0, b"x"))
    (write,) = wire.take()
    assert write.payload == WRITE.request.pack(0, 1) + b"x"
    wire.reply(write, write.payload[:16])
    await task
    wire.close()


@pytest.mark.parametrize(("found", "then"), [(b"", bytes(16)), (bytes(16), b"")])
async def test_a_reply_of_the_other_layout_is_eio_and_asks_again(
    device: LittleDevice, found: bytes, then: bytes
) -> None:
    """S0.14: re-checked on size mismatch."""
    wire = peculiar(device, message_dma="auto")
    map_(wire, 0, PAGE)
    memory = wire.session.connection.memory
    task = await start(memory.write(0, b"x"))
    (write,) = wire.reply(wire.take()[0], found)
    wire.reply(write, then and WRITE.request.pack(0, 1))
    assert await failure(task) == errno.EIO
    await start(memory.write(0, b"x"))
    assert asked(wire.take()[0]) == (WRITE.number, 0, 0)
    wire.close()


async def test_the_question_waits_for_a_held_command_and_dies_with_the_client(device: LittleDevice) -> None:
    """S0.14: as every DMA message of ours does."""
    wire = peculiar(device, message_dma="auto")
    map_(wire, 0, PAGE)
    wire.send(9, command(9).request.pack(SLOW, 0, 4))
    task = await start(wire.session.connection.memory.read(0, 1))
    assert wire.take() == []
    assert device.later
    device.later.set_result(0)
    reply, probe = wire.take()
    assert (reply.header.is_reply, asked(probe)) == (True, (WRITE.number, 0, 0))
    wire.close()
    assert await failure(task) == errno.ENODEV


# -- region-errors

BEYOND = 0x10000
ACCESSES = [(0, BEYOND), (0, FAILING), (1, 64), (4, 0), (99, 0)]
"""(region, offset): out of bounds, a hook that raises, out of bounds of a callable, an absent BAR, no region."""


@pytest.mark.parametrize(("region", "offset"), ACCESSES)
def test_all_ones_answers_reads_that_fail_and_drops_writes(device: LittleDevice, region: int, offset: int) -> None:
    """field-notes C.10: cloud-hypervisor waits for the whole payload, whatever the Error flag says."""
    wire = peculiar(device, region_errors="all-ones")
    for count in (4, 300):
        read = wire.ask(command(9), command(9).request.pack(offset, region, count))
        assert (read.errno, read.payload) == (0, struct.pack("=QII", offset, region, count) + b"\xff" * count)
    write = wire.ask(command(10), command(10).request.pack(offset, region, 4) + bytes(4))
    assert (write.errno, write.payload) == (0, struct.pack("=QII", offset, region, 4))
    assert wire.send(10, command(10).request.pack(offset, region, 4) + bytes(4), flags=NO_REPLY) == []
    wire.close()


@pytest.mark.parametrize(("region", "offset"), ACCESSES)
def test_errors_of_regions_are_error_replies_by_default(wire: Wire, region: int, offset: int) -> None:
    """requirements.md: an error reply is the header only."""
    read = wire.ask(command(9), command(9).request.pack(offset, region, 4))
    assert read.errno
    assert read.payload == b""


def test_all_ones_answers_what_fails_later(device: LittleDevice) -> None:
    """field-notes C.10, G: ETIMEDOUT included."""
    wire = peculiar(device, region_errors="all-ones")
    wire.send(9, command(9).request.pack(SLOW, 0, 4))
    wire.clock.advance(5)
    (read,) = wire.take()
    assert (read.errno, read.payload[16:]) == (0, b"\xff" * 4)
    wire.close()


def test_all_ones_leaves_the_rest_alone(device: LittleDevice) -> None:
    """S3.17: a request that is no access, and every other command, still gets its error."""
    wire = peculiar(device, region_errors="all-ones")
    assert wire.ask(command(9), bytes(15)).errno == errno.EINVAL
    assert wire.ask(command(9), command(9).request.pack(0, 0, 1 << 30)).errno == errno.EINVAL
    assert wire.ask(command(7), command(7).request.pack(16, 0, 99, 0)).errno == errno.EINVAL
    assert not wire.ask(command(10), command(10).request.pack(SCRATCH, 0, 4) + b"good").errno
    assert wire.ask(command(9), command(9).request.pack(SCRATCH, 0, 4)).payload[16:] == b"good"
    wire.close()
