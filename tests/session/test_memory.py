"""The client's memory as a device sees it: S1.5, S1.9, S2.15, architecture (What must never happen)."""

import asyncio
import errno
import os

import pytest

from tests.session.device import SLOW, LittleDevice
from tests.session.dma import PAGE, UNMAP, asked, failure, map_, read_reply, start
from tests.session.harness import Wire, command
from vfuserver._core import Gate
from vfuserver.errors import DmaError
from vfuserver.iommu import CONTEXT
from vfuserver.session.negotiation import version_data
from vfuserver.vfio import ANSWERING
from vfuserver.wire import reply_message

# -- mapped and unmapped pieces


async def test_an_access_over_both_kinds_of_memory_is_whole(wire: Wire) -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, PAGE)
    os.pwrite(fd, b"mapped", PAGE - 6)
    map_(wire, 0, PAGE, fds=(fd,))
    map_(wire, PAGE, PAGE)
    task = await start(wire.session.connection.memory.read(PAGE - 6, 14))
    (message,) = wire.take()
    assert asked(message) == (11, PAGE, 8)
    wire.reply(message, read_reply(message, b"messages"))
    assert await task == b"mappedmessages"
    task = await start(wire.session.connection.memory.write(PAGE - 3, b"abcdef"))
    (message,) = wire.take()
    assert message.payload.endswith(b"def")
    wire.reply(message)
    await task
    assert os.pread(fd, 3, PAGE - 3) == b"abc"
    os.close(fd)


async def test_mapped_memory_needs_no_message(wire: Wire) -> None:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, PAGE)
    map_(wire, 0, PAGE, fds=(fd,))
    memory = wire.session.connection.memory
    await memory.write(5, b"hello")
    memory.write_now(10, bytearray(b" world"))
    assert await memory.read(5, 11) == memory.read_now(5, 11) == b"hello world"
    assert wire.take() == []
    os.close(fd)


async def test_read_now_where_only_messages_reach_is_efault_and_says_what_to_do(wire: Wire) -> None:
    map_(wire, 0, PAGE)
    for access in (
        lambda: wire.session.connection.memory.read_now(0, 4),
        lambda: wire.session.connection.memory.write_now(0, b"x"),
    ):
        with pytest.raises(DmaError, match="in a job") as caught:
            access()
        assert caught.value.errno == errno.EFAULT


async def test_an_access_beyond_a_mapping_is_efault_before_any_message(wire: Wire) -> None:
    map_(wire, 0, PAGE)
    with pytest.raises(DmaError) as caught:
        await wire.session.connection.memory.read(PAGE - 4, 8)
    assert caught.value.errno == errno.EFAULT
    assert wire.take() == []


async def test_permission_is_eperm_before_any_message(wire: Wire) -> None:
    """S1.5."""
    map_(wire, 0, PAGE, flags=1)
    with pytest.raises(DmaError) as caught:
        await wire.session.connection.memory.write(0, b"x")
    assert caught.value.errno == errno.EPERM
    assert wire.take() == []


async def test_bus_mastering_off_is_eperm(wire: Wire, device: LittleDevice) -> None:
    """S2.15."""
    map_(wire, 0, PAGE)
    device.gate.clear(Gate.MASTER)
    with pytest.raises(DmaError) as caught:
        await wire.session.connection.memory.read(0, 1)
    assert caught.value.errno == errno.EPERM


async def test_empty_accesses_succeed(wire: Wire) -> None:
    memory = wire.session.connection.memory
    assert await memory.read(0, 0) == b""
    await memory.write(0, b"")


# -- what must never happen


async def test_message_dma_while_a_command_waits_for_it_is_edeadlk_at_once(wire: Wire) -> None:
    """architecture, What must never happen: answer first, go on in a job."""
    map_(wire, 0, PAGE)
    token = ANSWERING.set(True)
    try:
        with pytest.raises(DmaError, match="answer first, go on in a job") as caught:
            await wire.session.connection.memory.read(0, 1)
    finally:
        ANSWERING.reset(token)
    assert caught.value.errno == errno.EDEADLK
    assert wire.take() == []


async def test_a_list_of_messages_is_edeadlk_likewise(wire: Wire) -> None:
    map_(wire, 0, PAGE)
    map_(wire, PAGE, PAGE)
    memory = wire.session.connection.memory
    pieces = [(0, 1), (PAGE, 1)]
    token = ANSWERING.set(True)
    try:
        for work in (memory.readv(pieces), memory.writev(pieces, b"xy"), memory.copy(0, PAGE, 1), memory.read(0, 5000)):
            assert await failure(await start(work)) == errno.EDEADLK
    finally:
        ANSWERING.reset(token)
    assert wire.take() == []


async def test_a_transfer_of_somebody_else_waits_until_the_held_command_is_answered(
    wire: Wire, device: LittleDevice
) -> None:
    map_(wire, 0, PAGE)
    assert wire.send(9, command(9).request.pack(SLOW, 0, 4)) == []
    task = await start(wire.session.connection.memory.read(0, 1))
    assert wire.take() == []
    assert device.later is not None
    device.later.set_result(1)
    answer, message = wire.take()
    assert answer.header.is_reply
    wire.reply(message, read_reply(message, b"!"))
    assert await task == b"!"


async def test_replies_are_taken_in_while_a_command_is_held(wire: Wire, device: LittleDevice) -> None:
    """vfio.later: replies to our own DMA messages are still taken in."""
    map_(wire, 0, PAGE)
    task = await start(wire.session.connection.memory.read(0, 1))
    (message,) = wire.take()
    wire.send(9, command(9).request.pack(SLOW, 0, 4))
    wire.reply(message, read_reply(message, b"!"))
    assert await task == b"!"
    assert device.later is not None
    device.later.set_result(1)


@pytest.mark.parametrize("flags", [0, 2])
async def test_data_of_a_range_unmapped_meanwhile_is_dropped(wire: Wire, flags: int) -> None:
    """S1.9, architecture: EFAULT at once, and the late reply disturbs nobody."""
    map_(wire, 0x10000, PAGE)
    map_(wire, 0x20000, PAGE)
    gone = await start(wire.session.connection.memory.read(0x10000, 4))
    stays = await start(wire.session.connection.memory.read(0x20000, 4))
    first, second = wire.take()
    wire.ask(UNMAP, UNMAP.request.pack(24, flags, 0 if flags else 0x10000, 0 if flags else PAGE))
    assert await failure(gone) == errno.EFAULT
    assert stays.done() is bool(flags)
    wire.reply(first, read_reply(first, b"late"))
    wire.reply(second, read_reply(second, b"here"))
    if flags:
        assert await failure(stays) == errno.EFAULT
    else:
        assert await stays == b"here"


async def test_pieces_of_an_unmapped_range_are_not_sent_any_more(device: LittleDevice) -> None:
    wire = Wire(device)
    wire.negotiate(version_data({"max_data_xfer_size": 16}))
    map_(wire, 0, PAGE)
    task = await start(wire.session.connection.memory.write(0, bytes(PAGE)))
    messages = wire.take()
    wire.ask(UNMAP, UNMAP.request.pack(24, 0, 0, PAGE))
    assert await failure(task) == errno.EFAULT
    for message in messages:
        assert wire.reply(message) == []
    wire.close()


async def test_areas_are_read_side_by_side_until_one_is_unmapped(wire: Wire) -> None:
    """S1.9: what was waited for may be gone."""
    map_(wire, 0, PAGE)
    map_(wire, PAGE, PAGE)
    task = await start(wire.session.connection.memory.read(0, 2 * PAGE))
    first, second = wire.take()
    wire.ask(UNMAP, UNMAP.request.pack(24, 0, PAGE, PAGE))
    assert await failure(task) == errno.EFAULT
    for message in (first, second):
        assert wire.reply(message, read_reply(message, bytes(PAGE))) == []


async def test_a_cancelled_job_leaves_nothing_behind(wire: Wire) -> None:
    map_(wire, 0, PAGE)
    task = await start(wire.session.connection.memory.read(0, 4))
    (message,) = wire.take()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert wire.reply(message, read_reply(message, b"late")) == []
    again = await start(wire.session.connection.memory.read(0, 4))
    (message,) = wire.take()
    wire.reply(message, read_reply(message, b"next"))
    assert await again == b"next"


async def test_disconnect_fails_what_is_under_way_and_everything_after(wire: Wire) -> None:
    """testdev: ENODEV no client."""
    map_(wire, 0, PAGE)
    memory = wire.session.connection.memory
    tasks = [await start(memory.read(0, 4)), await start(memory.write(0, b"x"))]
    wire.close()
    assert [await failure(task) for task in tasks] == [errno.ENODEV] * 2
    assert await failure(await start(memory.read(0, 4))) == errno.ENODEV
    for access in (lambda: memory.read_now(0, 1), lambda: memory.write_now(0, b"x")):
        with pytest.raises(DmaError) as caught:
            access()
        assert caught.value.errno == errno.ENODEV


async def test_a_dma_reply_sent_byte_by_byte_is_taken(wire: Wire) -> None:
    map_(wire, 0, PAGE)
    task = await start(wire.session.connection.memory.read(0, 4))
    (message,) = wire.take()
    payload = read_reply(message, b"slow")
    for byte in reply_message(11, message.header.message_id, payload):
        assert wire.feed(bytes([byte])) == []
    assert await task == b"slow"


# -- seen from outside


async def test_a_connections_memory_is_in_the_dump_until_it_closes(wire: Wire) -> None:
    """S4.26."""
    map_(wire, 0x10000, PAGE)
    name = wire.session.log.label
    (space,) = (space for space in CONTEXT.dump()["spaces"] if space["name"] == name)
    assert [(area["iova"], area["size"], area["access"]) for area in space["areas"]] == [(0x10000, PAGE, "messages")]
    assert [access["ioas"] for access in CONTEXT.dump()["accesses"] if access["name"] == name] == [space["id"]]
    wire.close()
    dump = CONTEXT.dump()
    assert name not in {entry["name"] for entry in dump["spaces"] + dump["accesses"]}
