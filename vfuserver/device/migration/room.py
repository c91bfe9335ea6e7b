"""Room for what a stream brings, until all of it is verified.

Pages that are touched for the first time cost more than what is copied into them. So they are large ones, where the
system has them; room that is given back is taken again for as many bytes, so that a place which comes again and again
in a stream takes no more; and some pages are kept for the next stream, marked so that the system takes them whenever
it needs memory. It must not know what is put there.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Final

GROWTH: Final = 32 << 20
"""Bytes of address space that are added at a time; pages are there once they are touched."""
KEPT: Final = 128 << 20
"""Bytes of it that a process keeps for later."""
WORTH: Final = 64 << 10
"""Bytes below which a piece is ordinary memory."""
LINE: Final = 64

_kept: list[mmap.mmap] = []


class Room:
    """As much as is asked for, until it is closed."""

    def __init__(self) -> None:
        self._pages: list[mmap.mmap] = []
        self._rest = memoryview(b"")
        self._free: dict[int, list[memoryview]] = {}

    def take(self, size: int) -> memoryview:
        """`size` bytes, of any content."""
        if self._free.get(size):
            return self._free[size].pop()
        if not WORTH <= size <= GROWTH:
            return memoryview(bytearray(size))
        if size > len(self._rest):
            self._pages.append(_kept.pop() if _kept else _new_pages())
            self._rest = memoryview(self._pages[-1])
        piece, self._rest = self._rest[:size], self._rest[-(-size // LINE) * LINE :]
        return piece

    def give_back(self, piece: memoryview) -> None:
        """Nobody reads or writes it any more."""
        if len(piece) >= WORTH:
            self._free.setdefault(len(piece), []).append(piece)

    def close(self) -> None:
        """Nobody reads or writes any of it any more. Idempotent."""
        self._free.clear()
        self._rest = memoryview(b"")
        for pages in self._pages[: KEPT // GROWTH - len(_kept)]:
            pages.madvise(mmap.MADV_FREE)
            _kept.append(pages)
        self._pages.clear()


def _new_pages() -> mmap.mmap:
    pages = mmap.mmap(-1, GROWTH, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return pages
