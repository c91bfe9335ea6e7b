"""The access object: how a device reaches the memory of the client it is attached to.

An IOAS holds areas that are reached here (mapped, or by file I/O) and areas that only messages reach. `Ioas.plan` cuts
an access at area borders and refuses it as a whole (hole, permission, bus mastering off) before any byte moves. Pieces
reached here are then moved by the core; the others go through a message port (DMA_READ / DMA_WRITE), piece by piece, in
order. Whatever was waited for may have been unmapped meanwhile, so every piece is planned again just before it is done:
an UNMAP reply is a promise that no later access happens (S1.9).

It must not know messages, sessions or devices. One object lives as long as one connection; after `detach` every
access fails with ENODEV.
"""

import errno
from typing import Protocol

from vfuserver._core import PROT_READ, PROT_WRITE, Ioas
from vfuserver.errors import DmaError


class MessagePort(Protocol):
    """Reaches memory that is not mapped here. Both raise DmaError."""

    async def read(self, iova: int, length: int) -> bytes:
        """Asks the client for `length` bytes."""

    async def write(self, iova: int, data: memoryview) -> None:
        """Hands the client bytes to store; returns when it has."""


class Access:
    """A `vfio.Memory` over one IOAS and one message port."""

    def __init__(self, ioas: Ioas, port: MessagePort) -> None:
        self._ioas = ioas
        self._port = port
        self._detached = False

    def detach(self) -> None:
        """The client is gone: every access fails with ENODEV from now on."""
        self._detached = True

    async def read(self, iova: int, length: int) -> bytes:
        """Reads `length` bytes at `iova`. DmaError: EFAULT, EPERM, EIO, ENODEV, EDEADLK."""
        self._check(iova)
        data = self._ioas.read(iova, length)
        return await self._read_pieces(iova, length) if data is None else data

    async def write(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """Writes `data` at `iova`. DmaError as `read`; pieces before a failed one are written."""
        self._check(iova)
        if not self._ioas.write(iova, data):
            await self._write_pieces(iova, memoryview(data).cast("B"))

    def read_now(self, iova: int, length: int) -> bytes:
        """Reads memory that is reached here. DmaError(EFAULT) also where only messages reach."""
        self._check(iova)
        data = self._ioas.read(iova, length)
        if data is None:
            raise self._messages_needed(iova, length)
        return data

    def write_now(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """Writes it, likewise; errors as `read_now`."""
        self._check(iova)
        if not self._ioas.write(iova, data):
            raise self._messages_needed(iova, memoryview(data).nbytes)

    # -- inside

    async def _read_pieces(self, iova: int, length: int) -> bytes:
        parts = []
        for start, size in self._pieces(iova, length, PROT_READ):
            for at, count in self._pieces(start, size, PROT_READ):
                data = self._ioas.read(at, count)
                parts.append(await self._port.read(at, count) if data is None else data)
        return b"".join(parts)

    async def _write_pieces(self, iova: int, view: memoryview) -> None:
        for start, size in self._pieces(iova, len(view), PROT_WRITE):
            for at, count in self._pieces(start, size, PROT_WRITE):
                piece = view[at - iova : at - iova + count]
                if not self._ioas.write(at, piece):
                    await self._port.write(at, piece)

    def _pieces(self, iova: int, length: int, prot: int) -> list[tuple[int, int]]:
        """(iova, length) of each area's part of an access. DmaError: a hole, or not permitted."""
        self._check(iova)
        return [(at, count) for at, count, *_ in self._ioas.plan(iova, length, prot)]

    def _check(self, iova: int) -> None:
        if self._detached:
            raise DmaError(errno.ENODEV, f"DMA at {iova:#x}: no client is connected")

    @staticmethod
    def _messages_needed(iova: int, length: int) -> DmaError:
        text = f"{iova:#x}+{length:#x} is reached by messages only: await read() or write() in a job"
        return DmaError(errno.EFAULT, text)
