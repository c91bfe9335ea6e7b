"""A relay between QEMU and a server that forwards bytes and drops descriptors.

It stands for every transport without SCM_RIGHTS (a tunnel through another machine): QEMU still offers descriptors, the
server never gets one. Plain recv(2), as asyncio's streams use it, makes the kernel close them. It knows nothing of
vfio-user.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

_BLOCK = 1 << 16


@contextlib.asynccontextmanager
async def relay(listen_on: Path, forward_to: Path) -> AsyncIterator[None]:
    """Forward every connection to the UNIX socket `listen_on` to `forward_to`, without descriptors.

    The end closes all connections and removes the socket.
    """
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        with contextlib.suppress(asyncio.CancelledError):  # ours, below; asyncio's streams would log it as an error
            await _join(reader, writer, forward_to)
        connections.discard(task)

    server = await asyncio.start_unix_server(serve, listen_on)
    try:
        yield
    finally:
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        listen_on.unlink(missing_ok=True)


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, forward_to: Path) -> None:
    """Copy both ways until either side ends, then end the other."""
    with contextlib.closing(writer):
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(forward_to)
        except OSError:
            return  # as if the server itself had refused: QEMU sees the connection end
        with contextlib.closing(far_writer):
            ways = [asyncio.create_task(_copy(reader, far_writer)), asyncio.create_task(_copy(far_reader, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(_BLOCK):
        writer.write(block)
        await writer.drain()
