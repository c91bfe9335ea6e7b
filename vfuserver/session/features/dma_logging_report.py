"""DMA_LOGGING_REPORT: which pages the device has written since the last report."""

import errno
from typing import Final

from vfuserver.errors import CommandError
from vfuserver.session.connection import Connection
from vfuserver.session.feature import Feature, Operation
from vfuserver.session.options import MAX_DATA_XFER_SIZE, PAGE
from vfuserver.wire import U64, Layout, Rest

MAX_BITMAP: Final = MAX_DATA_XFER_SIZE
"""Bytes of one bitmap: no message of ours is larger."""
PAGE_SHIFT: Final = PAGE.bit_length() - 1
_WORD: Final = 64


class DmaLoggingReport(Feature, number=8, name="DMA_LOGGING_REPORT", operations=Operation.GET):
    """VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT (linux/vfio.h), the bitmap inline behind the request's fields (S3.19).

    Bit n of the little-endian u64 words is page iova + n * page_size, whatever size logging was started with. What is
    reported is clean afterwards; what is not mapped is clean. Page size: a power of two from 4096 up, iova a multiple
    of 4096, else EINVAL; a bitmap of more than 64 MiB: E2BIG; beyond 2**64: EOVERFLOW; not started: EINVAL. Writes by
    DMA_WRITE are the client's to know (S3.20).
    """

    get_request = Layout("iova" / U64, "length" / U64, "page_size" / U64)
    reply = Layout("iova" / U64, "length" / U64, "page_size" / U64, "bitmap" / Rest)

    @classmethod
    def reply_size(cls, connection: Connection, data: bytes) -> int:
        """The fields and whole words of bits."""
        iova, length, page_size = cls.get_request.unpack(data)
        if page_size < PAGE or page_size & (page_size - 1):
            raise CommandError(errno.EINVAL, f"page size {page_size:#x}, must be a power of two from {PAGE} up")
        if length == 0 or iova % PAGE:
            text = f"{iova:#x}+{length:#x}, must be at least one byte from a multiple of {PAGE} on"
            raise CommandError(errno.EINVAL, text)
        if iova + length > 1 << 64:
            raise CommandError(errno.EOVERFLOW, f"{iova:#x}+{length:#x} goes beyond 2**64")
        if not connection.ioas.logging:
            raise CommandError(errno.EINVAL, "DMA is not logged, must be started (feature 6) first")
        size = _words(-(-length // page_size))
        if size > MAX_BITMAP:
            raise CommandError(errno.E2BIG, f"a bitmap of {size} bytes, must be at most {MAX_BITMAP}: ask for parts")
        return cls.reply.size + size

    @classmethod
    def get(cls, connection: Connection, data: bytes) -> bytearray:
        """Takes the bits."""
        iova, length, page_size = cls.get_request.unpack(data)
        report = connection.ioas.report
        whole, rest = divmod(length, page_size)
        bitmap = report(iova, whole, page_size.bit_length() - 1)
        if rest:  # the last page is not asked for as a whole: what lies behind it stays noted
            bitmap.extend(bytes(_words(whole + 1) - len(bitmap)))
            if any(report(iova + whole * page_size, -(-rest // PAGE), PAGE_SHIFT)):
                bitmap[whole // 8] |= 1 << whole % 8
        bitmap[:0] = data[: cls.get_request.size]
        return bitmap


def _words(bits: int) -> int:
    """Bytes of the words that hold so many bits."""
    return -(-bits // _WORD) * (_WORD // 8)
