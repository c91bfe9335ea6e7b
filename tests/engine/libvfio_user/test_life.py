"""Connections on this engine: newcomers, silence, messages in pieces, what the library must not be shown."""

import asyncio
import os
import socket
import struct
from contextlib import suppress

import pytest

from tests.engine.conftest import raw
from tests.engine.libvfio_user.conftest import Bench
from tests.engine.libvfio_user.test_devices import number
from vfuserver.client import Client, DisconnectedError
from vfuserver.errors import CommandError
from vfuserver.session import SessionOptions
from vfuserver.vfio import IrqSetFlags, PciIrq
from vfuserver.wire import command_message

VERSION = command_message(1, 1, struct.pack("=HH", 0, 0) + b"{}\0")
READ = command_message(9, 2, struct.pack("=QII", 0, 7, 4))
EDU = 0x11E8_1234
REGIONS = (9, 10)
"""Before September 2023 the library counts one for migration's version 1, whatever the device has."""
EVENTFD = IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_reconnecting_at_once_is_never_refused_and_leaves_nothing(bench: Bench) -> None:
    path = bench.add("edu")
    before = descriptors()
    for _ in range(200):
        async with await Client.connect(path) as client:
            assert await number(client, 7, 0) == EDU
    async with asyncio.timeout(3):
        while descriptors() != before:
            await asyncio.sleep(0.01)


async def test_second_client_is_refused_while_the_first_is_served(bench: Bench) -> None:
    path = bench.add("edu")
    first = await bench.client(path)
    with pytest.raises(DisconnectedError):
        await Client.connect(path)
    assert await number(first, 7, 0) == EDU


async def test_client_that_says_nothing_is_cut_off_and_others_are_served(bench: Bench) -> None:
    path, other = bench.add("edu", SessionOptions(deadline=0.2)), bench.add("gpio-idio-16")
    with raw(path):
        quick = await bench.client(other)
        assert (await quick.device_info()).num_regions in REGIONS
        client = await bench.client(path)
        assert await number(client, 7, 0) == EDU


async def test_server_that_stops_under_a_silent_client_ends(bench: Bench) -> None:
    with raw(bench.add("edu")):
        await asyncio.sleep(0.05)


async def test_message_byte_by_byte_blocks_nobody(bench: Bench) -> None:
    path = bench.add("edu")
    other = await bench.client(bench.add("gpio-idio-16"))
    with raw(path) as slow:
        slow.sendall(VERSION)
        await until_readable(slow)
        slow.recv(4096)
        for byte in READ:
            slow.sendall(bytes([byte]))
            assert (await other.device_info()).num_regions in REGIONS
        await until_readable(slow)
        assert slow.recv(100)[-4:] == b"\x34\x12\xe8\x11"


async def test_connection_that_ends_inside_a_message_is_over(bench: Bench) -> None:
    path = bench.add("edu")
    for length in (1, 15, 16, 20, len(READ) - 1):
        with raw(path) as client:
            client.sendall(VERSION)
            await until_readable(client)
            client.sendall(READ[:length])
        served = await Client.connect(path)
        async with served:
            assert await number(served, 7, 0) == EDU


async def test_message_larger_than_the_socket_ends_the_connection(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The library would take its first part for all of it, and the rest for another message."""
    path = bench.add("testdev")
    with raw(path) as client:
        client.sendall(VERSION)
        await until_readable(client)
        client.recv(4096)
        client.setblocking(False)
        message = command_message(10, 2, struct.pack("=QII", 0, 2, 1 << 20) + bytes(1 << 20))
        client.send(message)
        await until_readable(client)
        assert client.recv(1) == b""
    assert "fit into the socket" in caplog.text


async def test_client_that_reads_nothing_stops_only_itself(bench: Bench) -> None:
    path = bench.add("edu")
    other = await bench.client(bench.add("gpio-idio-16"))
    with raw(path) as greedy:
        greedy.sendall(VERSION)
        await until_readable(greedy)
        greedy.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                greedy.send(READ * 100)
                await asyncio.sleep(0)
        async with asyncio.timeout(3):
            assert (await other.device_info()).num_regions in REGIONS


async def test_descriptor_that_is_no_eventfd_is_refused(bench: Bench) -> None:
    client = await bench.client(bench.add("edu"))
    reading, writing = os.pipe()
    with pytest.raises(CommandError):
        await client.set_irqs(PciIrq.INTX, EVENTFD, 0, 1, fds=[writing])
    os.close(reading)
    os.close(writing)


async def test_full_eventfd_blocks_nothing(bench: Bench) -> None:
    client = await bench.client(bench.add("edu"))
    full = os.eventfd((1 << 32) - 1, os.EFD_CLOEXEC)
    os.eventfd_write(full, (1 << 64) - (1 << 32) - 1)
    await client.set_irqs(PciIrq.INTX, EVENTFD, 0, 1, fds=[full])
    await client.set_irqs(PciIrq.INTX, IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_TRIGGER, 0, 1)
    await client.region_write(0, 0x60, b"\1\0\0\0")
    assert await number(client, 0, 0x24) == 1
    os.close(full)


async def until_readable(sock: socket.socket) -> None:
    ready = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sock.fileno(), ready.set)
    try:
        async with asyncio.timeout(5):
            await ready.wait()
    finally:
        loop.remove_reader(sock.fileno())
