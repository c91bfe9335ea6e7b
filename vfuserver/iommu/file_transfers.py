"""Bytes between a file of the device's own and client memory, off the loop's thread.

A file may make its reader wait, so what is LARGE or more is moved by a thread, run after run of at most RUN bytes.
Whoever awaits it may be ended at any time (a reset ends jobs): then the run under way is waited for, on the spot,
because once the job has ended nothing more may land in the client's memory, and its descriptor may be another file's by
then. A run holds the address space, so whoever maps, unmaps or pins waits for it just as long.

Memory that is not mapped here goes through a buffer and whoever reads and writes memory, run by run. This must not know
messages.
"""

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Event
from typing import Any, Final, Protocol, TypeVar

from vfuserver._core import ACCESS_MAPPED, PROT_READ, PROT_WRITE, Ioas
from vfuserver.errors import DmaError
from vfuserver.iommu.pieces import Pieces, laid_over, runs, total

LARGE: Final = 64 << 10
"""Bytes from which a thread does it: below, the page cache mostly has them, and a thread costs more."""
RUN: Final = 2 << 20
"""Bytes that are moved without a look at whether anybody still wants them."""
THREADS: Final = 4
T = TypeVar("T")


class Reached(Protocol):
    """Memory, and how it is reached."""

    @property
    def ioas(self) -> Ioas:
        """What is mapped here."""

    def extents(self, iova: int, length: int, prot: int) -> list[tuple[int, int, int, int, bool]]:
        """As Ioas.plan."""

    async def readv(self, pieces: Pieces) -> bytes:
        """All bytes of the pieces."""

    async def writev(self, pieces: Pieces, data: bytes | bytearray | memoryview) -> None:
        """Stores them."""


async def fill(memory: Reached, fd: int, pieces: Pieces, offset: int) -> int:
    """From the file at `offset` into the pieces; how many bytes (fewer at the end of the file)."""

    async def through_a_buffer(run: Pieces, at: int) -> int:
        length = total(run)
        data = memoryview(await _off_thread(length, lambda _: _file_io(os.pread, fd, length, at)))
        parts = list(laid_over(run, data))
        await memory.writev([(iova, len(part)) for iova, part in parts], data)
        return len(data)

    transfer = _Transfer(memory, PROT_WRITE, lambda run, at: memory.ioas.preadv(fd, run, at), pieces, offset)
    while await transfer.goes_on():
        transfer.count(await through_a_buffer(*transfer.next))
    return transfer.moved


async def drain(memory: Reached, fd: int, pieces: Pieces, offset: int) -> int:
    """From the pieces into the file at `offset`; how many bytes (fewer where the file takes no more)."""

    async def through_a_buffer(run: Pieces, at: int) -> int:
        data = await memory.readv(run)
        return await _off_thread(len(data), lambda _: _file_io(os.pwrite, fd, data, at))

    transfer = _Transfer(memory, PROT_READ, lambda run, at: memory.ioas.pwritev(fd, run, at), pieces, offset)
    while await transfer.goes_on():
        transfer.count(await through_a_buffer(*transfer.next))
    return transfer.moved


class _Transfer:
    """Where a transfer stands: the next run, and how many bytes have moved. Runs are cut as they come: a guest may name
    more bytes than there are."""

    def __init__(
        self, memory: Reached, prot: int, move: Callable[[Pieces, int], int], pieces: Pieces, offset: int
    ) -> None:
        """`move(run, at)` moves a run that is mapped here. DmaError, before a byte moves: as Ioas.plan."""
        for iova, length in pieces:
            memory.extents(iova, length, prot)
        self.moved = 0
        self._memory = memory
        self._prot = prot
        self._move = move
        self._offset = offset
        self._runs = runs(pieces, RUN)
        self._run = next(self._runs, None)
        self._bytes = total(pieces)

    async def goes_on(self) -> bool:
        """Moves what is mapped here. True: the next run is not; False: that was all."""
        if self._run is not None:
            await _off_thread(self._bytes - self.moved, self._move_mapped)
        return self._run is not None

    @property
    def next(self) -> tuple[Pieces, int]:
        """The next run, and where in the file it lies."""
        return self._run or [], self._offset + self.moved

    def count(self, moved: int) -> None:
        """The next run is done; it was the last if it could not be moved whole."""
        self.moved += moved
        self._run = next(self._runs, None) if moved == total(self._run or []) else None

    def _move_mapped(self, stop: Event) -> None:
        while self._run is not None and not stop.is_set() and self._is_mapped(self._run):
            self.count(self._move(*self.next))

    def _is_mapped(self, run: Pieces) -> bool:
        """Whether the kernel can reach all of it here. DmaError as Ioas.plan."""
        return all(
            access == ACCESS_MAPPED and not unproven
            for iova, length in run
            for _, _, access, _, unproven in self._memory.extents(iova, length, self._prot)
        )


# -- inside


def _file_io(call: Callable[[int, Any, int], T], fd: int, what: Any, at: int) -> T:
    try:
        return call(fd, what, at)
    except OSError as error:
        raise DmaError(
            error.errno or errno.EIO, f"{call.__name__} of file {fd} at {at:#x}: {error.strerror}"
        ) from error


async def _off_thread(length: int, call: Callable[[Event], T]) -> T:
    """`call(stop)`, in a thread if it is about that many bytes; `stop` is set when nobody waits for it any more."""
    stop = Event()
    if length < LARGE:
        return call(stop)
    future = _threads().submit(call, stop)
    answer = asyncio.wrap_future(future)
    try:
        return await answer
    finally:
        stop.set()
        answer.cancel()
        if not future.cancel():
            wait([future])


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="vfuserver-file")
