"""Devices served by libvfio-user in the test's own loop, where LIBVFIO_USER_SO names the library."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import memory as memory
from vfuserver.client import Client
from vfuserver.device.loader import load
from vfuserver.engine import Server, find_engine, listen
from vfuserver.engine.libvfio_user.api import library
from vfuserver.engine.libvfio_user.context import Context
from vfuserver.engine.libvfio_user.migration import Migration
from vfuserver.errors import UsageError
from vfuserver.session import SessionOptions
from vfuserver.vfio import Backend

LIBRARY = os.environ.get("LIBVFIO_USER_SO", "")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without the library only what is said about its absence can be tested."""
    missing = pytest.mark.skipif(not LIBRARY, reason="LIBVFIO_USER_SO does not name libvfio-user's library")
    for item in items:
        if Path(__file__).parent in item.path.parents and "without" not in item.path.name:
            item.add_marker(missing)


@cache
def migrates() -> bool:
    """Whether the library knows migration's version 2 (since September 2023)."""
    context = Context(library(), "the tests", lambda _what, _error: None)
    try:
        Migration(context)
    except UsageError:
        return False
    finally:
        context.destroy()
    return True


class Bench:
    """A server on this engine, and clients of what it serves."""

    def __init__(self, server: Server, folder: Path, stack: AsyncExitStack) -> None:
        self.server, self.folder, self._stack = server, folder, stack
        self._count = 0

    def add(self, device: Backend | str, options: SessionOptions | None = None) -> Path:
        """Serves a device; its socket's path."""
        self._count += 1
        path = self.folder / f"{self._count}.sock"
        backend = load(device)() if isinstance(device, str) else device
        listener, chosen = listen(path), options or SessionOptions()
        if not migrates():
            chosen = replace(chosen, migration="none")
        engine = find_engine("libvfio-user")
        engine.check(backend, chosen, listener)
        self.server.add(backend, listener, chosen, engine.serve)
        return path

    async def client(self, path: Path, **more: Any) -> Client:
        """A client that has negotiated and enabled the device; closed at the end."""
        client = await self._stack.enter_async_context(await Client.connect(path, **more))
        await client.enable()
        return client


@pytest.fixture
async def bench(folder: Path) -> AsyncIterator[Bench]:
    """The server, its devices closed before their clients are."""
    async with Server() as server, AsyncExitStack() as stack:
        yield Bench(server, folder, stack)
