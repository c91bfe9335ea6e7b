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


Piece = tuple[int, int, bool]
"""(iova, length in bytes, reached here)."""


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
        plan = self._plan(iova, length, PROT_READ)
        if all(here for _, _, here in plan):
            return self._ioas.read(iova, length)
        parts = []
        for start, size, _ in plan:
            for at, count, here in self._plan(start, size, PROT_READ):
                parts.append(self._ioas.read(at, count) if here else await self._port.read(at, count))
        return b"".join(parts)

    async def write(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """Writes `data` at `iova`. DmaError as `read`; pieces before a failed one are written."""
        view = memoryview(data).cast("B")
        plan = self._plan(iova, len(view), PROT_WRITE)
        if all(here for _, _, here in plan):
            self._ioas.write(iova, view)
            return
        for start, size, _ in plan:
            for at, count, here in self._plan(start, size, PROT_WRITE):
                piece = view[at - iova : at - iova + count]
                if here:
                    self._ioas.write(at, piece)
                else:
                    await self._port.write(at, piece)

    def read_now(self, iova: int, length: int) -> bytes:
        """Reads memory that is reached here. DmaError(EFAULT) also where only messages reach."""
        self._refuse_if_messages(self._plan(iova, length, PROT_READ))
        return self._ioas.read(iova, length)

    def write_now(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """Writes it, likewise; errors as `read_now`."""
        view = memoryview(data).cast("B")
        self._refuse_if_messages(self._plan(iova, len(view), PROT_WRITE))
        self._ioas.write(iova, view)

    def _plan(self, iova: int, length: int, prot: int) -> list[Piece]:
        if self._detached:
            raise DmaError(errno.ENODEV, f"DMA at {iova:#x}: no client is connected")
        return self._ioas.plan(iova, length, prot)

    @staticmethod
    def _refuse_if_messages(plan: list[Piece]) -> None:
        for at, count, here in plan:
            if not here:
                raise DmaError(
                    errno.EFAULT, f"{at:#x}+{count:#x} is reached by messages only: await read() or write() in a job"
                )
