"""Which pages of guest memory were written: what the client itself stores for DMA_WRITE, and bitmaps as ranges.

The server notes what it writes through a mapping or a file; bytes that come as DMA_WRITE are stored here, so it is the
client who must note those (S3.20). It must not know messages.
"""

from collections.abc import Iterator
from typing import Final

PAGE: Final = 4096


class DirtyLog:
    """Pages of 4096 bytes that were written since they were last asked for."""

    def __init__(self) -> None:
        self._pages: set[int] = set()

    def mark(self, iova: int, length: int) -> None:
        """Bytes [iova, iova + length) were written."""
        if length:
            self._pages.update(range(iova // PAGE, (iova + length - 1) // PAGE + 1))

    def take_into(self, bitmap: bytearray, iova: int, length: int, page_size: int) -> None:
        """Sets the bits of written pages in [iova, iova + length), whose bit n is page iova + n * page_size."""
        taken = {page for page in self._pages if iova <= page * PAGE < iova + length}
        self._pages -= taken
        for page in taken:
            bit = (page * PAGE - iova) // page_size
            bitmap[bit // 8] |= 1 << bit % 8


def dirty_ranges(bitmap: bytes | bytearray, iova: int, page_size: int = PAGE) -> Iterator[tuple[int, int]]:
    """(iova, size) of each run of dirty pages in a bitmap whose bit 0 is the page at `iova`."""
    start, end = 0, 0
    for bit in _bits(bitmap):
        if bit != end and end:
            yield iova + start * page_size, (end - start) * page_size
        if bit != end or not end:
            start = bit
        end = bit + 1
    if end:
        yield iova + start * page_size, (end - start) * page_size


def _bits(bitmap: bytes | bytearray) -> Iterator[int]:
    """Numbers of the bits that are set, ascending; bytes without any are passed over quickly."""
    at = 0
    while at < len(bitmap):
        if not bitmap[at]:
            at += _zeros(bitmap, at)
            continue
        yield from (at * 8 + bit for bit in range(8) if bitmap[at] >> bit & 1)
        at += 1


def _zeros(bitmap: bytes | bytearray, at: int) -> int:
    """How many bytes from `at` on are known to be zero: at least the first, at most a page of them."""
    step = 1
    while step < PAGE and at + step < len(bitmap) and not any(bitmap[at + step : at + 2 * step]):
        step *= 2
    return min(step, len(bitmap) - at)
