"""Memory that a moving device is given on both sides, and what it writes on the first carried over to the second.

The first pass carries all that was ever written, each further one what the device has written since (DMA_LOGGING); a
server that logs nothing has everything carried again. It must not know the device's state.
"""

import errno
import os
from collections.abc import Iterator
from typing import Final

from vfuserver.client import Client, GuestMemory, dirty_ranges
from vfuserver.errors import CommandError, UsageError

IOVA: Final = 0
"""Where it is mapped: a guest's RAM begins there."""
CHUNK: Final = 16 << 20


class Mirror:
    """`size` bytes (pages) of memory for each of two clients, which own them."""

    def __init__(self, source: Client, destination: Client, size: int) -> None:
        """UsageError: this machine does not give so much."""
        self.size = size
        try:
            self.here = source.own(GuestMemory(size, "moving-from"))
            self.there = destination.own(GuestMemory(size, "moving-to"))
        except OSError as error:
            raise UsageError(f"{size} bytes of memory on both sides are not to be had: {error.strerror}") from error
        self.logs = False
        """The source's server notes what its device writes."""
        self._source, self._destination = source, destination
        self._first = True

    async def map(self) -> None:
        """Both devices may use it from now on. CommandError."""
        await self._source.dma_map(IOVA, self.here)
        await self._destination.dma_map(IOVA, self.there)
        try:
            await self._source.dma_logging_start([(IOVA, self.size)])
            self.logs = True
        except CommandError:
            self.logs = False

    async def carry(self) -> int:
        """What has to be carried over, by now; how many bytes."""
        dirty = await self._source.dma_logging_report(IOVA, self.size) if self.logs else b""
        whole = self._first or not self.logs
        self._first = False
        ranges = _written(self.here.fd, self.size) if whole else dirty_ranges(dirty, IOVA)
        return sum(self._copy(at - IOVA, size) for at, size in ranges)

    def _copy(self, start: int, size: int) -> int:
        for at in range(start, start + size, CHUNK):
            self.there.write(at, self.here.read(at, min(CHUNK, start + size - at)))
        return size


def _written(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(IOVA, size) of what was ever written in a memfd."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but holes
                return
            raise
        at = os.lseek(fd, start, os.SEEK_HOLE)
        yield IOVA + start, at - start
