"""Memory that is not mapped here, by vfu_sgl_read and vfu_sgl_write: a `MessagePort`.

Both block until the client has answered, and no message of the client is served meanwhile; so they are made beside the
loop, one at a time, and only when no command waits for its answer. Whoever a command waits for gets EDEADLK at once
(S0.10): the client answers only after it has been answered. Over the main socket the library takes a command that
crosses its message for the reply, and QEMU answers none while it waits for one of its own, so a message needs a twin
socket; without one it is refused (EFAULT). It must not know the address space.
"""

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Any, Final, Protocol

from vfuserver._core import PROT_READ, PROT_WRITE
from vfuserver.engine.libvfio_user import api
from vfuserver.engine.libvfio_user.context import Context
from vfuserver.errors import DmaError
from vfuserver.vfio import ANSWERING

_NO_RANGE: Final = {errno.EACCES: errno.EPERM, errno.ENOENT: errno.EFAULT}
"""What vfu_addr_to_sgl says, in the words of a DmaError."""
_GONE: Final = {errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE, errno.ENOMSG}


class Turns(Protocol):
    """Who may use the connection now."""

    async def beside(self, call: Callable[[], int]) -> int:
        """Makes a call that blocks, when nothing else uses the connection; its result. DmaError(ENODEV): it ended."""


class Messages:
    """The message port of one connection."""

    def __init__(self, context: Context, turns: Turns, by_file: Callable[[int], bool]) -> None:
        """`by_file(iova)`: whether the library reaches that by file I/O, without a message."""
        self._context, self._turns, self._by_file = context, turns, by_file
        self._lock = asyncio.Lock()
        self._closed = False
        self.transfers = 0

    def close(self) -> None:
        """The client is gone."""
        self._closed = True

    async def read(self, iova: int, length: int) -> bytes:
        """Asks the client for bytes. DmaError: EIO, EFAULT, EPERM, ENODEV, EDEADLK."""
        data = self._context.ffi.new("char[]", length)
        await self._move(self._context.lib.vfu_sgl_read, iova, length, data, PROT_READ)
        return bytes(self._context.ffi.buffer(data))

    async def write(self, iova: int, data: memoryview) -> None:
        """Hands the client bytes; returns when it has stored them. Errors as `read`."""
        given = self._context.ffi.from_buffer(bytes(data))
        await self._move(self._context.lib.vfu_sgl_write, iova, len(data), given, PROT_WRITE)

    async def _move(self, move: Callable[..., int], iova: int, length: int, data: Any, prot: int) -> None:
        where = f"{iova:#x}+{length:#x}"
        if ANSWERING.get():
            text = f"DMA by messages at {where} while a command waits for this code: answer first, go on in a job"
            raise DmaError(errno.EDEADLK, text)
        if not length:
            return
        if self._context.twin < 0 and not self._by_file(iova):
            text = f"{where} is reached by messages only, which libvfio-user cannot send safely without a twin socket"
            raise DmaError(errno.EFAULT, f"{text}: have the client share its memory, or leave --engine out")

        refused: list[int] = []

        def call() -> int:  # keeps `data` until it ends, whoever has given up meanwhile
            context = self._context
            entry = context.scatter(iova, length, prot)
            if entry is None:
                refused.append(context.ffi.errno)
                return errno.EFAULT
            return 0 if move(context.handle, entry, 1, data, api.DIRECT_ACCESS) == 0 else int(context.ffi.errno)

        self.transfers += 1
        try:
            async with self._lock:
                if self._closed:
                    raise DmaError(errno.ENODEV, f"DMA at {where}: the client went away")
                error = await asyncio.shield(self._turns.beside(call))
        finally:
            self.transfers -= 1
        if error in _GONE or self._closed:
            raise DmaError(errno.ENODEV, f"DMA at {where}: the client went away")
        if error:
            text = f"libvfio-user's DMA message for {where} ended with {os.strerror(error)}"
            raise DmaError(_NO_RANGE.get(refused[0], errno.EFAULT) if refused else errno.EIO, text)
