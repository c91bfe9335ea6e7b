"""The client's methods against our own server."""

import asyncio
import errno
import logging
import mmap
import os
import socket
from pathlib import Path

import pytest

from tests.client.conftest import connected
from tests.session.device import AREAS, COUNTER, RW, SCRATCH, SLOW, LittleDevice
from vfuserver.client import Client, DeviceInfo, DisconnectedError, IrqInfo, ReplyTimeoutError
from vfuserver.errors import CommandError, PeerError
from vfuserver.session import Capabilities, Operation, SessionOptions
from vfuserver.session.commands.device_get_region_info import DeviceGetRegionInfo
from vfuserver.vfio import DeviceFlags, IrqFlags, PciIrq, RegionFlags, ResetReason


async def test_negotiation_tells_both_ends(client: Client) -> None:
    assert client.version == (0, 0)
    assert client.server == Capabilities(max_msg_fds=16, whole_messages=True)
    assert client.offered.keys() == {"max_data_xfer_size", "max_msg_fds", "max_dma_maps", "pgsizes", "whole_messages"}


async def test_negotiation_without_data_assumes_the_defaults(device: LittleDevice) -> None:
    async with connected(device) as client:
        assert await client.negotiate(None) == Capabilities()


async def test_negotiation_of_another_major_ends_the_connection(device: LittleDevice) -> None:
    async with connected(device) as client:
        with pytest.raises(DisconnectedError, match="server has closed"):
            await client.negotiate(version=(1, 0))


async def test_command_before_version_ends_the_connection(device: LittleDevice) -> None:
    async with connected(device) as client:
        with pytest.raises(DisconnectedError):
            await client.device_info()
        with pytest.raises(DisconnectedError):
            await client.device_info()


async def test_device_info(client: Client) -> None:
    assert await client.device_info() == DeviceInfo(DeviceFlags.PCI | DeviceFlags.RESET, 9, 5)


async def test_irq_info(client: Client) -> None:
    assert await client.irq_info(PciIrq.MSIX) == IrqInfo(2, IrqFlags.EVENTFD | IrqFlags.MASKABLE, 40)


async def test_error_reply_raises_its_errno(client: Client) -> None:
    with pytest.raises(CommandError) as caught:
        await client.irq_info(5)
    assert caught.value.errno == errno.EINVAL


# -- regions


async def test_region_info_with_areas_is_asked_for_twice(client: Client) -> None:
    info = await client.region_info(2)
    assert (info.size, info.offset, info.areas) == (0x10000, 0, AREAS)
    assert info.flags == RW | RegionFlags.MMAP | RegionFlags.CAPS
    with info.mmap(AREAS[1]) as window:
        await client.region_write(2, 0x8000, b"through the socket")
        assert window[:18] == b"through the socket"
        window[:4] = b"THRO"
        assert await client.region_read(2, 0x8000, 18) == b"THROugh the socket"


async def test_region_info_of_a_trapped_region_cannot_be_mapped(client: Client) -> None:
    info = await client.region_info(0)
    assert (info.fd, info.areas) == (-1, ())


async def test_region_info_mappable_as_a_whole_starts_at_its_offset(client: Client, device: LittleDevice) -> None:
    info = await client.region_info(3)
    os.pwrite(device.fd, b"here", 0x10000)
    with info.mmap() as window:
        assert window[:4] == b"here"
        assert isinstance(window, mmap.mmap)


async def test_region_read_write(client: Client) -> None:
    await client.region_write(0, SCRATCH, b"abcd")
    assert await client.region_read(0, SCRATCH, 4) == b"abcd"


async def test_posted_writes_come_before_the_next_read(client: Client) -> None:
    """vfio-user specification, Command Concurrency."""
    for value in range(100):
        await client.region_write(0, SCRATCH, value.to_bytes(4, "little"), posted=True)
    assert await client.region_read(0, SCRATCH, 4) == (99).to_bytes(4, "little")


async def test_write_multi_does_every_write(client: Client) -> None:
    writes = [(2, i, bytes([i + 1])) for i in range(200)]
    assert await client.region_write_multi(writes) == 200
    assert await client.region_read(2, 0, 200) == bytes(range(1, 201))
    await client.region_write_multi([(2, 0, b"12345678")], posted=True)
    assert await client.region_read(2, 0, 8) == b"12345678"


async def test_config_space_in_one_read(client: Client) -> None:
    assert await client.config_space() == bytes(range(256))
    await client.config_write(0x10, 0xAABBCCDD)
    assert await client.config_read(0x10) == 0xAABBCCDD
    assert await client.config_read(0x11, 1) == 0xCC


async def test_enable_sets_command(client: Client) -> None:
    await client.enable()
    assert await client.config_read(4, 2) == 7


async def test_reset_reaches_the_device(client: Client, device: LittleDevice) -> None:
    await client.reset()
    assert device.log[-1] is ResetReason.MESSAGE


async def test_feature_that_is_unknown_is_enotty(client: Client) -> None:
    for operation in (Operation.GET, Operation.SET, Operation.PROBE):
        with pytest.raises(CommandError) as caught:
            await client.feature(1, operation)
        assert caught.value.errno == errno.ENOTTY


# -- many at a time, slow ones, ends


async def test_a_thousand_commands_in_flight_get_their_own_replies(client: Client) -> None:
    """Issue 2: 1000 pipelined messages."""
    values = await asyncio.gather(*(client.region_read(0, COUNTER, 4) for _ in range(1000)))
    assert [int.from_bytes(value, "little") for value in values] == list(range(1, 1001))


async def test_a_slow_register_lets_other_work_go_on(client: Client, device: LittleDevice) -> None:
    slow = asyncio.create_task(client.region_read(0, SLOW, 4))
    while device.later is None:
        await asyncio.sleep(0)
    behind = asyncio.create_task(client.region_read(0, COUNTER, 4))
    await asyncio.sleep(0.01)
    assert not slow.done()
    assert not behind.done()
    device.later.set_result(0x01020304)
    assert await slow == b"\4\3\2\1"
    assert await behind == b"\1\0\0\0"


async def test_no_reply_in_time_is_a_clear_error_and_the_late_reply_is_dropped(
    client: Client, device: LittleDevice, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vfuserver.client")
    client.channel.timeout = 0.05
    with pytest.raises(ReplyTimeoutError, match=r"no reply to command 9 within 0.05 s"):
        await client.region_read(0, SLOW, 4)
    client.channel.timeout = 5
    assert device.later is not None
    device.later.set_result(1)
    assert await client.region_read(0, COUNTER, 4) == b"\1\0\0\0"
    assert "nobody waits for" in caplog.text


async def test_the_servers_deadline_is_an_error_reply(device: LittleDevice) -> None:
    async with connected(device, SessionOptions(deadline=0.05)) as client:
        await client.negotiate()
        with pytest.raises(CommandError) as caught:
            await client.region_read(0, SLOW, 4)
        assert caught.value.errno == errno.ETIMEDOUT


async def test_close_fails_what_is_waited_for(client: Client, device: LittleDevice) -> None:
    slow = asyncio.create_task(client.region_read(0, SLOW, 4))
    while device.later is None:
        await asyncio.sleep(0)
    client.close()
    with pytest.raises(DisconnectedError, match="the client has closed"):
        await slow
    with pytest.raises(DisconnectedError):
        await client.reset()


async def test_connecting_to_nobody_says_where(tmp_path: Path) -> None:
    path = tmp_path / "nobody.sock"
    with pytest.raises(DisconnectedError, match=f"cannot connect to {path}"):
        await Client.connect(path)


async def test_connecting_waits_while_the_servers_backlog_is_full(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        first = await Client.open(path)
        with pytest.raises(DisconnectedError, match=r"did not accept within 0.05 s"):
            await Client.open(path, timeout=0.05)
        waiting = asyncio.create_task(Client.open(path))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        accepted = [listener.accept()[0]]
        second = await waiting
        accepted.append(listener.accept()[0])
    for sock in accepted:
        sock.close()
    for client in (first, second):
        client.close()


async def test_raw_commands_carry_descriptors_both_ways(client: Client) -> None:
    request = DeviceGetRegionInfo.request.pack(32, 0, 3, 0, 0, 0)
    reply = await client.command(DeviceGetRegionInfo.number, request)
    assert reply is not None
    assert len(reply.fds) == 1
    os.close(reply.fds[0])
    assert await client.command(14, b"", no_reply=True) is None
    with pytest.raises(CommandError) as caught:
        await client.command(14)
    assert caught.value.errno == errno.ENOTSUP


async def test_a_server_that_breaks_the_stream_is_a_peer_error() -> None:
    ours, theirs = socket.socketpair()
    client = Client(ours)
    theirs.send(bytes(16))
    with pytest.raises(PeerError, match="stream from the server is broken"):
        await client.negotiate()
    client.close()
    theirs.close()


async def test_a_server_that_does_not_read_does_not_make_us_hold_everything() -> None:
    ours, theirs = socket.socketpair()
    client = Client(ours)
    post = asyncio.create_task(_post_forever(client))
    await asyncio.sleep(0.2)
    assert not post.done()
    assert client.channel.stream.queued < 2 << 20
    theirs.close()
    with pytest.raises(DisconnectedError):
        await post
    client.close()


async def _post_forever(client: Client) -> None:
    while True:
        await client.region_write(0, 0, bytes(65536), posted=True)
