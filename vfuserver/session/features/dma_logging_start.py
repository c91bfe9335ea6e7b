"""DMA_LOGGING_START: from now on the pages that the device writes are noted."""

import errno
from typing import Final

from vfuserver.errors import CommandError
from vfuserver.session.command import Survival
from vfuserver.session.connection import Connection
from vfuserver.session.feature import Feature, Operation
from vfuserver.session.options import PAGE
from vfuserver.wire import U32, U64, Layout, Rest

MAX_RANGES: Final = 256
"""As many as the kernel takes (one page of ranges)."""
POINTER: Final = 8
"""Bytes of a pointer: QEMU sends its own in place of the ranges, which nobody can read here (field-notes, DMA
logging): everything is logged then."""
RANGE: Final = Layout("iova" / U64, "length" / U64)
"""One range (struct vfio_device_feature_dma_logging_range)."""


class DmaLoggingStart(Feature, number=6, name="DMA_LOGGING_START", operations=Operation.SET):
    """VFIO_DEVICE_FEATURE_DMA_LOGGING_START (linux/vfio.h), the ranges inline behind the fixed part (S3.18).

    No ranges: everything. More than 256: E2BIG; empty, not aligned to the page size, or overlapping: EINVAL; beyond
    2**64: EOVERFLOW; started already: EINVAL. The reply is the request with the page size that was chosen: the one
    asked for, but at least 4096; reports may ask for any other one.
    """

    survival = Survival.AGAIN
    set_request = Layout("page_size" / U64, "num_ranges" / U32, "reserved" / U32, "ranges" / Rest)

    @classmethod
    def set(cls, connection: Connection, data: bytes) -> bytes:
        """Starts it."""
        page_size, count, reserved = cls.set_request.unpack(data)
        if page_size == 0 or page_size & (page_size - 1):
            raise CommandError(errno.EINVAL, f"page size {page_size:#x}, must be a power of two")
        ranges = data[cls.set_request.size :]
        spans = [] if len(ranges) == POINTER and count <= MAX_RANGES else _spans(ranges, count, page_size)
        if connection.ioas.logging:
            raise CommandError(errno.EINVAL, "DMA is logged already, must be stopped (feature 7) first")
        connection.ioas.log(spans)
        return cls.set_request.pack(max(page_size, PAGE), count, reserved) + ranges


def _spans(ranges: bytes, count: int, page_size: int) -> list[tuple[int, int]]:
    """(first, last) of each range; the core refuses those that overlap."""
    if count > MAX_RANGES:
        raise CommandError(errno.E2BIG, f"{count} ranges, must be at most {MAX_RANGES}")
    if len(ranges) < count * RANGE.size:
        text = f"{len(ranges)} bytes of ranges, must be {count * RANGE.size} for {count}"
        raise CommandError(errno.EINVAL, text)
    listed = (RANGE.unpack(ranges[at : at + RANGE.size]) for at in range(0, count * RANGE.size, RANGE.size))
    return [_span(iova, length, page_size) for iova, length in listed]


def _span(iova: int, length: int, page_size: int) -> tuple[int, int]:
    if length == 0 or (iova | length) % page_size:
        raise CommandError(errno.EINVAL, f"range {iova:#x}+{length:#x}, must be whole pages of {page_size:#x} bytes")
    if iova + length > 1 << 64:
        raise CommandError(errno.EOVERFLOW, f"range {iova:#x}+{length:#x} goes beyond 2**64")
    return iova, iova + length - 1
