"""DMA_READ and DMA_WRITE: layout, pieces, errors: S0.14, S1.14."""

import errno

import pytest

from tests.session.device import LittleDevice
from tests.session.dma import PAGE, WRITE, asked, failure, map_, read_reply, start
from tests.session.harness import Wire
from vfuserver.errors import DmaError
from vfuserver.session import SessionOptions
from vfuserver.session.negotiation import version_data
from vfuserver.session.outgoing import BYTES, PIECES
from vfuserver.wire import error_message


async def test_read_is_one_message_in_the_specifications_layout(wire: Wire) -> None:
    """S0.14: address u64, count u64."""
    map_(wire, 0x10000, PAGE)
    task = await start(wire.session.connection.memory.read(0x10010, 5))
    (message,) = wire.take()
    assert wire.outputs == 1
    assert not message.header.is_reply
    assert message.payload.hex() == "10000100000000000500000000000000"
    assert wire.reply(message, read_reply(message, b"hello")) == []
    assert await task == b"hello"


async def test_write_carries_its_data_at_message_byte_32(wire: Wire) -> None:
    """S0.14."""
    map_(wire, 0x10000, PAGE)
    task = await start(wire.session.connection.memory.write(0x10010, b"hello"))
    (message,) = wire.take()
    assert message.payload.hex() == "10000100000000000500000000000000" + b"hello".hex()
    wire.reply(message, WRITE.reply.pack(0x10010, 5))
    assert await task is None


ONE_BYTE_AT_0 = WRITE.request.pack(0, 1)


@pytest.mark.parametrize("reply", [b"", ONE_BYTE_AT_0[:12], ONE_BYTE_AT_0])
async def test_write_reply_may_be_a_bare_header(wire: Wire, reply: bytes) -> None:
    """S0.14: the first upstream QEMU client; the text's 12 bytes; what QEMU 11.1 sends."""
    map_(wire, 0, PAGE)
    task = await start(wire.session.connection.memory.write(0, b"x"))
    wire.reply(wire.take()[0], reply)
    assert await task is None


async def test_transfers_are_cut_into_pieces_of_the_smaller_limit(device: LittleDevice) -> None:
    """S1.14, testdev: pieces no larger than the smaller of both sides' max_data_xfer_size."""
    wire = Wire(device, SessionOptions(max_data_xfer_size=1 << 20, quirks={"message-dma": "spec"}))
    wire.negotiate(version_data({"max_data_xfer_size": 4096}))
    map_(wire, 0, 1 << 20)
    task = await start(wire.session.connection.memory.read(8, 10000))
    messages = wire.take()
    assert [asked(message) for message in messages] == [(11, 8, 4096), (11, 4104, 4096), (11, 8200, 1808)]
    for message in reversed(messages):  # the order of replies does not matter
        _, address, count = asked(message)
        wire.reply(message, read_reply(message, bytes([address >> 12 & 0xFF]) * count))
    assert await task == b"\0" * 4096 + b"\1" * 4096 + b"\2" * 1808
    wire.close()


async def test_pieces_under_way_are_bounded(wire: Wire) -> None:
    """Issue 2: a client that does not read cannot make us hold more."""
    map_(wire, 0, 64 << 20)
    task = await start(wire.session.connection.memory.write(0, bytes(64 << 20)))
    messages = wire.take()
    assert sum(asked(message)[2] for message in messages) <= BYTES + (1 << 20)
    done = 0
    while messages:
        message = messages.pop(0)
        done += asked(message)[2]
        messages += wire.reply(message)
    assert done == 64 << 20
    await task


async def test_many_small_transfers_are_bounded_and_all_served(wire: Wire) -> None:
    map_(wire, 0, 1 << 20)
    tasks = [await start(wire.session.connection.memory.read(i, 1)) for i in range(100)]
    messages = wire.take()
    assert len(messages) == PIECES
    while messages:
        message = messages.pop(0)
        messages += wire.reply(message, read_reply(message, bytes([asked(message)[1]])))
    assert [await task for task in tasks] == [bytes([i]) for i in range(100)]


async def test_message_ids_are_not_reused_while_under_way(wire: Wire) -> None:
    map_(wire, 0, 1 << 20)
    outgoing = wire.session.connection.outgoing
    tasks = [await start(wire.session.connection.memory.read(0, 1))]
    (first,) = wire.take()
    outgoing._last_id = first.header.message_id - 1
    tasks.append(await start(wire.session.connection.memory.read(1, 1)))
    (second,) = wire.take()
    assert second.header.message_id != first.header.message_id
    wire.reply(second, read_reply(second, b"2"))
    wire.reply(first, read_reply(first, b"1"))
    assert [await task for task in tasks] == [b"1", b"2"]


async def test_an_error_reply_is_eio_with_the_clients_errno_in_the_text(wire: Wire) -> None:
    """testdev: EIO an error reply of the client."""
    map_(wire, 0, PAGE)
    task = await start(wire.session.connection.memory.read(0, 4))
    (message,) = wire.take()
    wire.feed(error_message(11, message.header.message_id, errno.ENODEV))
    with pytest.raises(DmaError, match="ENODEV") as caught:
        await task
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("payload", [b"", bytes(16), bytes(19), bytes(21), b"\1" + bytes(19), b"\0" * 12 + b"\1" * 8])
async def test_a_read_reply_that_does_not_fit_is_eio(wire: Wire, payload: bytes) -> None:
    """S0.14: the old layout's reply, with data where half of the count should be, among them."""
    map_(wire, 0, PAGE)
    task = await start(wire.session.connection.memory.read(0, 4))
    wire.reply(wire.take()[0], payload)
    assert await failure(task) == errno.EIO


async def test_after_an_error_the_rest_is_not_sent(device: LittleDevice) -> None:
    wire = Wire(device)
    wire.negotiate(version_data({"max_data_xfer_size": 16}))
    map_(wire, 0, PAGE)
    task = await start(wire.session.connection.memory.write(0, bytes(PAGE)))
    messages = wire.take()
    assert len(messages) == PIECES
    assert wire.feed(error_message(12, messages[0].header.message_id, errno.EFAULT)) == []
    assert await failure(task) == errno.EIO
    for message in messages[1:]:
        assert wire.reply(message) == []
    wire.close()
