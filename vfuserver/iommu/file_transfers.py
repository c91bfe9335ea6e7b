"""Bytes between a file of the device's own and client memory, off the loop's thread.

A file may make its reader wait, so what is LARGE or more is moved by a thread, in runs of at most RUN bytes. Whoever
awaits it may be ended at any time (a reset ends jobs): then the run under way is waited for, on the spot, because once
the job has ended nothing more may land in the client's memory, and its descriptor may be another file's by then.
A run holds the address space, so an unmap waits for it just as long.

It must not know messages: memory that is not mapped here goes through a buffer and whoever reads and writes memory.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from typing import Any, Final, Protocol, TypeVar

from vfuserver._core import ACCESS_MAPPED, PROT_READ, PROT_WRITE, Ioas
from vfuserver.errors import DmaError
from vfuserver.iommu.pieces import Pieces, laid_over, runs, total

LARGE: Final = 64 << 10
"""Bytes from which a thread does it: below, the page cache mostly has them, and a thread costs more."""
RUN: Final = 8 << 20
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
        data = memoryview(await _off_thread(length, lambda: _file_io(os.pread, fd, length, at)))
        parts = list(laid_over(run, data))
        await memory.writev([(iova, len(part)) for iova, part in parts], data)
        return len(data)

    def at_once(run: Pieces, at: int) -> int:
        return memory.ioas.preadv(fd, run, at)

    return await _in_runs(memory, pieces, offset, PROT_WRITE, at_once, through_a_buffer)


async def drain(memory: Reached, fd: int, pieces: Pieces, offset: int) -> int:
    """From the pieces into the file at `offset`; how many bytes (fewer where the file takes no more)."""

    async def through_a_buffer(run: Pieces, at: int) -> int:
        data = await memory.readv(run)
        return await _off_thread(len(data), lambda: _file_io(os.pwrite, fd, data, at))

    def at_once(run: Pieces, at: int) -> int:
        return memory.ioas.pwritev(fd, run, at)

    return await _in_runs(memory, pieces, offset, PROT_READ, at_once, through_a_buffer)


# -- inside


async def _in_runs(
    memory: Reached,
    pieces: Pieces,
    offset: int,
    prot: int,
    at_once: Callable[[Pieces, int], int],
    through_a_buffer: Callable[[Pieces, int], Coroutine[Any, Any, int]],
) -> int:
    moved = 0
    for run in runs(pieces, RUN):
        length = total(run)
        if _is_mapped(memory, run, prot):
            count = await _off_thread(length, partial(at_once, run, offset + moved))
        else:
            count = await through_a_buffer(run, offset + moved)
        moved += count
        if count < length:
            break
    return moved


def _is_mapped(memory: Reached, run: Pieces, prot: int) -> bool:
    """Whether the kernel can reach all of it here. DmaError as Ioas.plan."""
    return all(
        access == ACCESS_MAPPED and not unproven
        for iova, length in run
        for _, _, access, _, unproven in memory.extents(iova, length, prot)
    )


def _file_io(call: Callable[[int, Any, int], T], fd: int, what: Any, at: int) -> T:
    try:
        return call(fd, what, at)
    except OSError as error:
        raise DmaError(
            error.errno or errno.EIO, f"{call.__name__} of file {fd} at {at:#x}: {error.strerror}"
        ) from error


async def _off_thread(length: int, call: Callable[[], T]) -> T:
    if length < LARGE:
        return call()
    future = _threads().submit(call)
    answer = asyncio.wrap_future(future)
    try:
        return await answer
    finally:
        answer.cancel()
        if not future.cancel():
            wait([future])


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="vfuserver-file")
