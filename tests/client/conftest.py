"""A client against a server in the same loop, ours over a socketpair; on asyncio and on uvloop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import uvloop

from tests.engines import CHOSEN
from tests.session.device import LittleDevice
from vfuserver.client import Client
from vfuserver.engine import find_engine, listen
from vfuserver.engine.choice import DEFAULT
from vfuserver.engine.unix_socket import UnixConnection
from vfuserver.errors import UsageError
from vfuserver.session import SessionOptions
from vfuserver.vfio import Backend


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every client test runs on both loops."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@asynccontextmanager
async def connected(device: Backend, options: SessionOptions | None = None) -> AsyncIterator[Client]:
    """A client that has said nothing yet."""
    client, end = (_by_us if CHOSEN == DEFAULT else _by_another)(device, options or SessionOptions())
    try:
        yield client
    finally:
        client.close()
        end()


def _by_us(device: Backend, options: SessionOptions) -> tuple[Client, Callable[[], None]]:
    ours, theirs = socket.socketpair()
    server = UnixConnection(device, theirs, options, asyncio.get_running_loop(), lambda _: None)
    return Client(ours), partial(server.close, "the test is over")


def _by_another(device: Backend, options: SessionOptions) -> tuple[Client, Callable[[], None]]:
    """What the engine refuses before it listens is no difference that a client could see: skipped."""
    engine = find_engine(CHOSEN)
    with TemporaryDirectory(prefix="vfu-") as folder:
        listener = listen(Path(folder) / "s")
        try:
            engine.check(device, options, listener)
        except UsageError as reason:
            listener.close()
            pytest.skip(str(reason))
        server = engine.serve(device, listener, options, asyncio.get_running_loop(), None)
        server.begin()
        ours = socket.socket(socket.AF_UNIX)
        ours.connect(f"{folder}/s")
        return Client(ours), server.close


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
