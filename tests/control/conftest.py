"""A server with its control socket, in the test's own loop; every test runs on both loops."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.engine.conftest import folder
from vfuserver.control import beside
from vfuserver.control.server import PATIENCE, ControlServer
from vfuserver.device import PciDevice
from vfuserver.device.loader import load
from vfuserver.engine import Server, listen

__all__ = ["folder"]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@asynccontextmanager
async def controlled(device: PciDevice, path: Path, patience: float = PATIENCE) -> AsyncIterator[Path]:
    """A server of one device with its control socket; nothing is left of either."""
    async with Server() as server:
        server.add(device, listen(path))
        async with ControlServer(server, patience):
            yield path
    assert list(path.parent.iterdir()) == []


@pytest.fixture
async def served(folder: Path) -> AsyncIterator[Path]:
    """The socket of a testdev."""
    async with controlled(load("testdev")(), folder / "t.sock") as path:
        yield path


@pytest.fixture
async def impatient(folder: Path) -> AsyncIterator[Path]:
    """Likewise, of a server that waits no longer than it must."""
    async with controlled(load("testdev")(), folder / "t.sock", 0.2) as path:
        yield path


class Asker:
    """A control client that need not behave."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, served: Path) -> "Asker":
        return cls(*await asyncio.open_unix_connection(beside(served), limit=1 << 24))

    async def send(self, text: bytes) -> None:
        self.writer.write(text)
        await self.writer.drain()

    async def answer(self) -> Any:
        return json.loads(await self.reader.readline())

    async def ask(self, text: bytes) -> Any:
        await self.send(text)
        return await self.answer()

    async def ended(self) -> bool:
        """Waits for the server to hang up; True if it said nothing more."""
        return await self.reader.read(1) == b""

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()
