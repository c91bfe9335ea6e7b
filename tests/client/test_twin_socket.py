"""The twin socket between our client and our engine, on both loops (issue 3)."""

import asyncio
import errno
import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.client.conftest import connected
from tests.session.device import SCRATCH, SLOW, LittleDevice
from vfuserver.client import QEMU_PROPOSAL, TWIN_PROPOSAL, Client, DisconnectedError, GuestMemory
from vfuserver.errors import DmaError, PeerError
from vfuserver.session import SessionOptions
from vfuserver.session.commands.version import Version
from vfuserver.vfio import Client as Guest
from vfuserver.wire import command_message, error_message, reply_message, split_message

BASE, SIZE = 0x10000, 1 << 20


@pytest.fixture
async def client(device: LittleDevice) -> AsyncIterator[Client]:
    """A client with a twin socket, and memory at BASE that only messages reach."""
    async with connected(device) as client:
        await client.negotiate(TWIN_PROPOSAL)
        memory = client.own(GuestMemory(SIZE))
        await client.dma_map(BASE, memory, share=False)
        memory.write(0, b"guest memory")
        yield client


def guest(device: LittleDevice) -> Guest:
    assert device.client is not None
    return device.client


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_device_reaches_memory_while_commands_go_on(client: Client, device: LittleDevice) -> None:
    main, data = client.channel.stream.received, os.urandom(SIZE)
    assert await guest(device).memory.read(BASE, 12) == b"guest memory"
    await guest(device).memory.write(BASE, data)
    assert client.channel.stream.received == main
    transfers = asyncio.gather(*(guest(device).memory.read(BASE, SIZE) for _ in range(4)))
    for i in range(100):
        await client.region_write(0, SCRATCH, i.to_bytes(4, "little"))
        assert await client.region_read(0, SCRATCH, 4) == i.to_bytes(4, "little")
    assert set(await transfers) == {data}


async def test_device_reaches_memory_while_a_command_waits(client: Client, device: LittleDevice) -> None:
    waiting = asyncio.ensure_future(client.region_read(0, SLOW, 4))
    await until(lambda: device.later is not None)
    assert await guest(device).memory.read(BASE, 5) == b"guest"
    assert device.later
    device.later.set_result(3)
    assert await waiting == b"\3\0\0\0"


async def test_errors_of_the_client_arrive(client: Client, device: LittleDevice) -> None:
    await client.dma_map(BASE + SIZE, client.own(GuestMemory(SIZE)), share=False)
    client.guest.remove(BASE + SIZE, SIZE)
    with pytest.raises(DmaError, match="EFAULT") as caught:
        await guest(device).memory.read(BASE + SIZE, 4)
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("proposal", [QEMU_PROPOSAL, None])
async def test_client_that_does_not_ask_gets_none(device: LittleDevice, proposal: Any) -> None:
    """QEMU and libvfio-user's sample client do not ask."""
    async with connected(device) as client:
        await client.negotiate(proposal)
        assert (client.twin, client.server.twin_socket) == (None, False)


async def test_server_without_it_leaves_one_socket(device: LittleDevice) -> None:
    async with connected(device, SessionOptions(twin_socket=False)) as client:
        await client.negotiate(TWIN_PROPOSAL)
        await client.dma_map(BASE, client.own(GuestMemory(SIZE)), share=False)
        assert client.twin is None
        assert await guest(device).memory.read(BASE, 4) == bytes(4)


# -- an end of either is the end of both


async def test_client_that_closes_the_twin_socket_loses_the_connection(client: Client, device: LittleDevice) -> None:
    """What it had sent on the main socket is served first."""
    for i in range(2000):
        client.channel.post(10, SCRATCH.to_bytes(8, "little") + bytes(4) + b"\4\0\0\0" + i.to_bytes(4, "little"))
    client.channel._flush()
    stuck = asyncio.ensure_future(guest(device).memory.read(BASE, SIZE))
    assert client.twin
    client.twin._on_end = None  # the client itself does not mind
    client.twin.close()
    await until(lambda: client.channel.ended is not None)
    assert device.client is None
    assert device.regions[0].table
    assert device.regions[0].table.get(0) == 1999
    with pytest.raises(DmaError):
        await stuck


async def test_client_that_closes_the_twin_socket_still_gets_a_held_answer(
    client: Client, device: LittleDevice
) -> None:
    waiting = asyncio.ensure_future(client.region_read(0, SLOW, 4))
    await until(lambda: device.later is not None)
    assert client.twin
    client.twin._on_end = None
    client.twin.close()
    for _ in range(10):
        await asyncio.sleep(0)
    assert device.later
    device.later.set_result(9)
    assert await waiting == b"\x09\0\0\0"
    await until(lambda: client.channel.ended is not None)


async def test_client_that_closes_the_main_socket_loses_the_connection(client: Client, device: LittleDevice) -> None:
    client.channel.close()
    await until(lambda: device.client is None)
    await until(lambda: client.twin is not None and client.twin.ended is not None)


async def test_a_broken_message_on_the_twin_socket_closes(
    client: Client, device: LittleDevice, caplog: pytest.LogCaptureFixture
) -> None:
    assert client.twin
    client.twin.stream.send(bytes(4) + b"\3\0\0\0" + bytes(8))
    client.twin._flush()
    await until(lambda: client.channel.ended is not None)
    assert device.client is None
    assert "connection closed: command 0 has a message size of 3 bytes" in caplog.text


# -- servers that are not ours


class OtherServer:
    """The other end of a client's sockets, by hand."""

    def __init__(self) -> None:
        self.ours, theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.twin, self.given = socket.socketpair()
        self.client = Client(theirs)

    async def version(self, twin_socket: Any, fds: int) -> None:
        """Answers the client's VERSION."""
        loop = asyncio.get_running_loop()
        negotiating = asyncio.ensure_future(self.client.negotiate(TWIN_PROPOSAL))
        header, _ = split_message(await loop.sock_recv(self.ours, 65536))
        data = json.dumps({"capabilities": {"twin_socket": twin_socket}}).encode() + b"\0"
        reply = reply_message(1, header.message_id, Version.reply.build(major=0, minor=0, data=data))
        socket.send_fds(self.ours, [reply], [self.given.fileno()] * fds)
        await negotiating

    def close(self) -> None:
        self.client.close()
        for sock in (self.ours, self.twin, self.given):
            sock.close()


@pytest.fixture
async def other() -> AsyncIterator[OtherServer]:
    server = OtherServer()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("said", "fds"),
    [
        ({"supported": True}, 1),
        ({"supported": True, "fd_index": 0}, 0),
        ({"supported": True, "fd_index": 1}, 1),
        ({"supported": True, "fd_index": -1}, 1),
        ({"supported": True, "fd_index": True}, 2),
        ({"supported": 1, "fd_index": 0}, 1),
        (True, 1),
    ],
)
async def test_inconsistent_reply_is_refused(other: OtherServer, said: Any, fds: int) -> None:
    """The specification: the client must abort."""
    with pytest.raises(PeerError, match="twin"):
        await other.version(said, fds)
    assert other.client.twin is None


async def test_the_named_descriptor_is_taken_and_the_others_are_closed(other: OtherServer) -> None:
    await other.version({"supported": True, "fd_index": 2}, 3)
    assert other.client.twin is not None


async def test_a_command_of_the_server_on_the_main_socket_is_refused(other: OtherServer) -> None:
    await other.version({"supported": True, "fd_index": 0}, 1)
    await asyncio.get_running_loop().sock_sendall(other.ours, command_message(11, 7, bytes(16)))
    assert await asyncio.get_running_loop().sock_recv(other.ours, 4096) == error_message(11, 7, errno.EINVAL)


async def test_reply_that_came_before_the_twin_socket_ended_is_taken(other: OtherServer) -> None:
    await other.version({"supported": True, "fd_index": 0}, 1)
    asked = [asyncio.ensure_future(other.client.command(13)) for _ in range(2)]
    await asyncio.sleep(0)
    header, _ = split_message((await asyncio.get_running_loop().sock_recv(other.ours, 4096))[:16])
    other.ours.send(reply_message(13, header.message_id))
    other.given.close()
    other.twin.close()
    assert await asked[0] is not None
    with pytest.raises(DisconnectedError, match="twin socket"):
        await asked[1]


async def test_unasked_for_twin_socket_is_not_taken(other: OtherServer) -> None:
    loop = asyncio.get_running_loop()
    negotiating = asyncio.ensure_future(other.client.negotiate())
    header, _ = split_message(await loop.sock_recv(other.ours, 65536))
    data = b'{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}\0'
    reply = reply_message(1, header.message_id, Version.reply.build(major=0, minor=0, data=data))
    socket.send_fds(other.ours, [reply], [other.given.fileno()])
    await negotiating
    assert other.client.twin is None
