"""A client against our own server over a socketpair, in one loop; on asyncio and on uvloop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import uvloop

from tests.session.device import LittleDevice
from vfuserver.client import Client
from vfuserver.engine.unix_socket import UnixConnection
from vfuserver.session import SessionOptions
from vfuserver.vfio import Backend


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every client test runs on both loops."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@asynccontextmanager
async def connected(device: Backend, options: SessionOptions | None = None) -> AsyncIterator[Client]:
    """A client that has said nothing yet."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    server = UnixConnection(device, theirs, options or SessionOptions(), loop, lambda _: None)
    client = Client(ours)
    try:
        yield client
    finally:
        client.close()
        server.close("the test is over")


@pytest.fixture
def device() -> Iterator[LittleDevice]:
    backend = LittleDevice()
    yield backend
    backend.close()


@pytest.fixture
async def client(device: LittleDevice) -> AsyncIterator[Client]:
    async with connected(device) as client:
        await client.negotiate()
        yield client
