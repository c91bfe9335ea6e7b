"""The access object: how a device reaches the memory of the client it is attached to (S4.12).

An IOAS holds areas that are reached here (mapped, or by file I/O) and areas that only messages reach. The core refuses
an access as a whole (hole, permission, bus mastering off) before any byte of it moves. Pieces reached here are moved by
the core, mostly in one call; the others go through a message port (DMA_READ / DMA_WRITE), area by area, side by side.
Whatever was waited for may have been unmapped meanwhile, so every piece is planned again just before it is done: an
UNMAP reply is a promise that no later access happens (S1.9).

It must not know messages, sessions or devices. One object lives as long as one connection; after `detach` every
access fails with ENODEV.
"""

import errno
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, TypeVar

from vfuserver._core import PROT_READ, PROT_WRITE, Ioas
from vfuserver.errors import DmaError
from vfuserver.iommu import file_transfers
from vfuserver.iommu.comparison import Believed, Comparison, Files, MessagePort
from vfuserver.iommu.pieces import Pieces, laid_over, side_by_side, total
from vfuserver.iommu.views import OnRevoke, View, Views

T = TypeVar("T")
COPY_RUN: Final = 1 << 20
"""Bytes of a copy by messages that are held here at one time."""


class Access:
    """A `vfio.Memory` over one IOAS and one message port. Errors of every call are DmaErrors: EFAULT, EPERM, EIO,
    ENODEV, and where messages may be needed EDEADLK."""

    def __init__(
        self,
        ioas: Ioas,
        port: MessagePort,
        who: str = "device",
        files: Files | None = None,
    ) -> None:
        """`who` names the device in log lines; `files` knows more of the client's files, if they are to be doubted."""
        self.ioas = ioas
        self._files = files or Believed()
        self._comparison = Comparison(ioas, port, self._files)
        self.who = who
        self.views = Views(ioas, who)
        self._port = port
        self._detached = False

    def detach(self) -> None:
        """The client is gone: every access fails with ENODEV from now on, and views end."""
        self._detached = True
        self.views.close()

    # -- one piece

    async def read(self, iova: int, length: int) -> bytes:
        """Reads `length` bytes at `iova`."""
        self._check(iova)
        data = self._read_here(iova, length)
        return await self._read_areas([(iova, length)]) if data is None else data

    async def write(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """Writes `data` at `iova`; where messages are needed, parts of it may be written when another part fails."""
        self._check(iova)
        if not self._write_here(iova, data):
            await self._write_areas([(iova, memoryview(data).cast("B"))])

    def read_now(self, iova: int, length: int) -> bytes:
        """Reads memory that is reached here. EFAULT also where only messages reach."""
        self._check(iova)
        data = self._read_here(iova, length)
        if data is None:
            raise self._messages_needed(iova, length)
        return data

    def write_now(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """Writes it, likewise."""
        self._check(iova)
        if not self._write_here(iova, data):
            raise self._messages_needed(iova, memoryview(data).nbytes)

    # -- lists of pieces

    async def readv(self, pieces: Pieces) -> bytes:
        """Reads all pieces: their bytes one after another."""
        self._check()
        found = [self._read_here(iova, length) for iova, length in pieces]
        if None in found:
            return await self._read_areas(pieces)
        return b"".join(data for data in found if data)

    async def writev(self, pieces: Pieces, data: bytes | bytearray | memoryview) -> None:
        """Spreads `data` over the pieces (EINVAL unless they have as many bytes); when one fails, others may be
        written."""
        left = []
        for iova, part in self._spread(pieces, data):
            if not self._write_here(iova, part):
                left.append((iova, part))
        if left:
            await self._write_areas(left)

    def readv_now(self, pieces: Pieces) -> bytes:
        """As readv(), where no messages are needed."""
        return b"".join([self.read_now(iova, length) for iova, length in pieces])

    def writev_now(self, pieces: Pieces, data: bytes | bytearray | memoryview) -> None:
        """As writev(), where no messages are needed."""
        for iova, part in self._spread(pieces, data):
            self.write_now(iova, part)

    # -- without a buffer of the caller's

    async def copy(self, source: int, destination: int, length: int) -> None:
        """Copies inside the space, from one IOVA to another; the ranges must not overlap."""
        self._check(source)
        if self._copy_here(source, destination, length):
            return
        for at in range(0, length, COPY_RUN):
            count = min(COPY_RUN, length - at)
            await self.write(destination + at, await self.read(source + at, count))

    def copy_now(self, source: int, destination: int, length: int) -> None:
        """As copy(), where no messages are needed."""
        self._check(source)
        if not self._copy_here(source, destination, length):
            raise self._messages_needed(source, length)

    async def preadv(self, fd: int, pieces: Pieces, offset: int) -> int:
        """Fills the pieces from a file; how many bytes, fewer at its end. Also the file's own errno."""
        self._check()
        return await file_transfers.fill(self, fd, pieces, offset)

    async def pwritev(self, fd: int, pieces: Pieces, offset: int) -> int:
        """Writes the pieces to a file; how many bytes. Also the file's own errno."""
        self._check()
        return await file_transfers.drain(self, fd, pieces, offset)

    def atomic(self, operation: int, iova: int, size: int, operand: int = 0, expected: int = 0) -> int:
        """One access of the core's (LOAD, STORE, ...) to mapped memory; what was there before. Also EINVAL."""
        self._check(iova)
        return self._judged(lambda: self.ioas.atomic(operation, iova, size, operand, expected))

    def check(self, iova: int, length: int, write: bool) -> None:
        """DmaError unless all of it may be read, or written, now."""
        self.extents(iova, length, PROT_WRITE if write else PROT_READ)

    def extents(self, iova: int, length: int, prot: int) -> list[tuple[int, int, int, int, bool]]:
        """As Ioas.plan: each area's part of an access, and how it is reached."""
        self._check(iova)
        return self.ioas.plan(iova, length, prot)

    def drain(self) -> None:
        """Waits for copies of other threads that are under way; later ones see the gate as it is now (S2.33)."""
        self.ioas.drain()

    # -- views

    def pin(self, iova: int, length: int, writable: bool, on_revoke: OnRevoke | None = None) -> View:
        """A view of mapped memory. Also ENOSPC (too many), EINVAL (empty, or areas that share a page)."""
        self._check(iova)
        return self._judged(lambda: self.views.pin(iova, length, writable, on_revoke))

    def views_in(self, iova: int, last: int) -> list[View]:
        """The live views that touch [iova, last]."""
        return self.views.inside(iova, last)

    def ask_back(self, iova: int, last: int) -> Future[None]:
        """Asks for those views; done when all of them are released (`asyncio.wrap_future`
        awaits it)."""
        return self.views.ask_back(iova, last)

    def revoke(self, iova: int, last: int) -> int:
        """Takes them by force, and says so in the log; how many."""
        return self.views.revoke(iova, last)

    # -- inside

    def _read_here(self, iova: int, length: int) -> bytes | None:
        """None: messages are needed, now that the client's files are judged."""
        data = self.ioas.read(iova, length)
        return self.ioas.read(iova, length) if data is None and self._files.look() else data

    def _write_here(self, iova: int, data: bytes | bytearray | memoryview) -> bool:
        return self.ioas.write(iova, data) or (self._files.look() and self.ioas.write(iova, data))

    def _copy_here(self, source: int, destination: int, length: int) -> bool:
        done = self.ioas.copy(source, destination, length)
        return done or (self._files.look() and self.ioas.copy(source, destination, length))

    def _judged(self, call: Callable[[], T]) -> T:
        """What needs a mapping, once more if it fails for a file that can be judged."""
        try:
            return call()
        except DmaError as error:
            if error.errno != errno.EFAULT or not self._files.look():
                raise
            return call()

    async def _read_areas(self, pieces: Pieces) -> bytes:
        areas = [area for iova, length in pieces for area in self._pieces(iova, length, PROT_READ)]
        return b"".join(await side_by_side([self._read_area(iova, length) for iova, length in areas]))

    async def _read_area(self, iova: int, length: int) -> bytes:
        parts = []
        for at, count, _, source, unproven in self.extents(iova, length, PROT_READ):
            data = self.ioas.read(at, count)
            if data is None:
                data = await (self._comparison.read(source, at, count) if unproven else self._port.read(at, count))
            parts.append(data)
        return b"".join(parts)

    async def _write_areas(self, parts: list[tuple[int, memoryview]]) -> None:
        areas = [
            (at, part[at - iova : at - iova + count])
            for iova, part in parts
            for at, count in self._pieces(iova, len(part), PROT_WRITE)
        ]
        await side_by_side([self._write_area(iova, part) for iova, part in areas])

    async def _write_area(self, iova: int, part: memoryview) -> None:
        for at, count, _, source, unproven in self.extents(iova, len(part), PROT_WRITE):
            piece = part[at - iova : at - iova + count]
            if not self.ioas.write(at, piece):
                await (self._comparison.write(source, at, piece) if unproven else self._port.write(at, piece))

    def _pieces(self, iova: int, length: int, prot: int) -> list[tuple[int, int]]:
        """(iova, length) of each area's part of an access. DmaError: a hole, or not permitted."""
        return [(at, count) for at, count, *_ in self.extents(iova, length, prot)]

    def _spread(self, pieces: Pieces, data: bytes | bytearray | memoryview) -> list[tuple[int, memoryview]]:
        self._check()
        view = memoryview(data).cast("B")
        if total(pieces) != len(view):
            raise DmaError(errno.EINVAL, f"{len(view)} bytes for pieces of {total(pieces)}, must be as many")
        return list(laid_over(pieces, view))

    def _check(self, iova: int = 0) -> None:
        if self._detached:
            raise DmaError(errno.ENODEV, f"DMA at {iova:#x}: no client is connected")

    @staticmethod
    def _messages_needed(iova: int, length: int) -> DmaError:
        text = f"{iova:#x}+{length:#x} is reached by messages only: await read() or write() in a job"
        return DmaError(errno.EFAULT, text)
