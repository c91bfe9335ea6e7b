"""A complete vfio-user client: every command that a client sends as a method, guest memory and eventfds included.

    async with await Client.connect(path) as client:
        await client.enable()
        print(await client.region_read(0, 0, 4))

An error reply raises CommandError with the server's errno. Commands leave in the order of the calls; whoever wants
many in flight gathers the calls, or uses `channel.submit`. It must not know any server's internals.
"""

import asyncio
import os
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from vfuserver.client.base import OWN_PROPOSAL
from vfuserver.client.dma_commands import DmaCommands
from vfuserver.client.errors import DisconnectedError
from vfuserver.client.irq_commands import IrqCommands
from vfuserver.client.logging_commands import LoggingCommands
from vfuserver.client.migration_commands import MigrationCommands


class Client(LoggingCommands, MigrationCommands, IrqCommands, DmaCommands):
    """One client on one server."""

    @classmethod
    async def open(cls, path: str | os.PathLike[str], *, timeout: float = 5.0) -> Self:
        """Connects, and says nothing yet. DisconnectedError: nobody listens there."""
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(timeout):
                await _connect(sock, os.fspath(path))
        except OSError as error:  # TimeoutError is one
            sock.close()
            reason = error.strerror or f"the server did not accept within {timeout:g} s"
            raise DisconnectedError(f"cannot connect to {os.fspath(path)}: {reason}") from error
        return cls(sock, timeout=timeout)

    @classmethod
    async def connect(
        cls,
        path: str | os.PathLike[str],
        proposal: Mapping[str, Any] | None = OWN_PROPOSAL,
        *,
        timeout: float = 5.0,
    ) -> Self:
        """Connects and negotiates: `proposal` is the `capabilities` object (None: no version data)."""
        client = await cls.open(path, timeout=timeout)
        try:
            await client.negotiate(proposal)
        except BaseException:
            client.close()
            raise
        return client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def _connect(sock: socket.socket, path: str) -> None:
    """UNIX sockets connect at once or not at all; EAGAIN: the backlog is full (asyncio would take it for done)."""
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:
            await asyncio.sleep(0.005)
        else:
            return
