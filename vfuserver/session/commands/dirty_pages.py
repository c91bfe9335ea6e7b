"""DIRTY_PAGES: which pages the device has written, for clients of migration's version 1."""

import errno
from collections.abc import Callable
from enum import IntFlag
from typing import Final

from vfuserver.errors import CommandError
from vfuserver.session.command import Command, Request, Survival, need_argsz
from vfuserver.session.connection import Connection
from vfuserver.session.features.dma_logging_report import DmaLoggingReport
from vfuserver.session.features.dma_logging_start import DmaLoggingStart
from vfuserver.session.features.dma_logging_stop import DmaLoggingStop
from vfuserver.session.options import PAGE
from vfuserver.wire import U32, U64, Bits, Layout, Rest


class DirtyPagesFlags(IntFlag):
    """VFIO_IOMMU_DIRTY_PAGES_FLAG_*: exactly one of them."""

    START = 1 << 0
    STOP = 1 << 1
    GET_BITMAP = 1 << 2


RANGE: Final = Layout("iova" / U64, "size" / U64, "pgsize" / U64, "bitmap_size" / U64)
"""What follows the head of a GET_BITMAP, in request and reply; the bitmap's bytes follow that in the reply."""


class DirtyPages(Command, number=14, name="DIRTY_PAGES"):
    """VFIO_USER_DIRTY_PAGES, which the specification had until version 2 of migration came (S3.29).

    The rules are those of the features DMA_LOGGING_START, _STOP and _REPORT, and so is the log; everything is logged.
    A GET_BITMAP with too small an argsz is answered by the head alone, with the argsz that is needed; EINVAL: its
    bitmap_size does not cover the range, or not exactly one flag is set.
    """

    request = Layout("argsz" / U32, "flags" / Bits(DirtyPagesFlags), "range" / Rest)
    reply = Layout("argsz" / U32, "flags" / Bits(DirtyPagesFlags), "range" / Rest)

    @classmethod
    def survival(cls, payload: bytes) -> Survival:
        """A report takes what is dirty; the rest is done again."""
        reports = cls.request.unpack(payload)[1:] == (DirtyPagesFlags.GET_BITMAP,)
        return Survival.NOTHING if reports else Survival.AGAIN

    @classmethod
    def offered(cls, connection: Connection) -> bool:
        """Where version 1 is."""
        return connection.machine is not None and connection.options.migration_v1

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> bytes:
        """Starts, stops or reports."""
        argsz, flags = request.integers
        need_argsz(argsz, cls.request.size)
        operation = _OPERATIONS.get(flags)
        if operation is None:
            raise CommandError(errno.EINVAL, f"flags {flags:#x}, must be START (1), STOP (2) or GET_BITMAP (4)")
        return operation(connection, argsz, request.payload[cls.request.size :])


def _start(connection: Connection, _argsz: int, _range: bytes) -> bytes:
    DmaLoggingStart.set(connection, DmaLoggingStart.set_request.pack(PAGE, 0, 0))
    return b""


def _stop(connection: Connection, _argsz: int, _range: bytes) -> bytes:
    DmaLoggingStop.set(connection, b"")
    return b""


def _get_bitmap(connection: Connection, argsz: int, wanted: bytes) -> bytes:
    if len(wanted) < RANGE.size:
        raise CommandError(errno.EINVAL, f"a range of {len(wanted)} bytes, must be at least {RANGE.size}")
    iova, size, page_size, room = RANGE.unpack(wanted)
    asked = DmaLoggingReport.get_request.pack(iova, size, page_size)
    bitmap_size = DmaLoggingReport.reply_size(connection, asked) - DmaLoggingReport.reply.size
    if room < bitmap_size:
        raise CommandError(errno.EINVAL, f"bitmap_size {room}, must be at least {bitmap_size} for {size} bytes")
    needed = DirtyPages.reply.size + RANGE.size + bitmap_size
    head = DirtyPages.reply.pack(needed, DirtyPagesFlags.GET_BITMAP)
    if argsz < needed:
        return head
    bitmap = DmaLoggingReport.get(connection, asked)[DmaLoggingReport.reply.size :]
    return head + RANGE.pack(iova, size, page_size, bitmap_size) + bitmap


_OPERATIONS: Final[dict[int, Callable[[Connection, int, bytes], bytes]]] = {
    DirtyPagesFlags.START: _start,
    DirtyPagesFlags.STOP: _stop,
    DirtyPagesFlags.GET_BITMAP: _get_bitmap,
}
