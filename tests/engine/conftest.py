import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import uvloop

from vfuserver.device.loader import load
from vfuserver.engine import Server, listen


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every engine test runs on both loops."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a socket's path."""
    with TemporaryDirectory(prefix="vfu-") as name:
        yield Path(name)


Serve = Callable[[str], Path]


@pytest.fixture
async def serve(folder: Path) -> AsyncIterator[Serve]:
    """serve(device) serves another device in one server and returns its socket's path."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server())

        def add(device: str) -> Path:
            path = folder / f"{device}-{len(os.listdir(folder))}.sock"
            server.add(load(device)(), listen(path))
            return path

        yield add


def raw(path: Path) -> socket.socket:
    """A blocking socket connected to a server."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(os.fspath(path))
    return sock


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Each ends with the last of its devices."""
    before = threading.active_count()
    yield
    assert threading.active_count() == before
