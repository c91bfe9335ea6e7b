"""The client's commands on the log of what the device writes (DEVICE_FEATURE 6, 7 and 8)."""

from collections.abc import Sequence
from typing import Final

from vfuserver.client.dirty_log import PAGE, DirtyLog
from vfuserver.client.region_commands import RegionCommands
from vfuserver.errors import PeerError
from vfuserver.session.feature import FIXED, Operation
from vfuserver.session.features.dma_logging_report import DmaLoggingReport
from vfuserver.session.features.dma_logging_start import RANGE, DmaLoggingStart
from vfuserver.session.features.dma_logging_stop import DmaLoggingStop

WORD_BITS: Final = 64


class LoggingCommands(RegionCommands):
    """DMA_LOGGING_START, DMA_LOGGING_STOP and DMA_LOGGING_REPORT, what came by DMA_WRITE included."""

    async def dma_logging_start(self, ranges: Sequence[tuple[int, int]] = (), page_size: int = PAGE) -> int:
        """Has writes inside (iova, length) ranges logged, or all; the page size that the server has chosen."""
        data = DmaLoggingStart.set_request.build(
            page_size=page_size,
            num_ranges=len(ranges),
            reserved=0,
            ranges=b"".join(RANGE.pack(*one) for one in ranges),
        )
        reply = await self.feature(DmaLoggingStart.number, Operation.SET, data)
        self.guest.log = DirtyLog()
        return DmaLoggingStart.set_request.unpack(reply)[0]

    async def dma_logging_stop(self) -> None:
        """Nothing is logged any more."""
        await self.feature(DmaLoggingStop.number, Operation.SET)
        self.guest.log = None

    async def dma_logging_report(self, iova: int, length: int, page_size: int = PAGE) -> bytearray:
        """The bitmap of [iova, iova + length), bit n for page iova + n * page_size; `dirty_ranges` reads it.

        It is asked for in parts that fit into our max_data_xfer_size. What was reported is clean afterwards.
        """
        part = self.guest.max_transfer // (WORD_BITS // 8) * WORD_BITS * page_size
        bitmap = bytearray()
        for at in range(iova, iova + length, part):
            bitmap += await self._report(at, min(part, iova + length - at), page_size)
        if self.guest.log is not None:
            self.guest.log.take_into(bitmap, iova, length, page_size)
        return bitmap

    async def _report(self, iova: int, length: int, page_size: int) -> bytes:
        pages = -(-length // page_size)
        size = -(-pages // WORD_BITS) * (WORD_BITS // 8)
        request = DmaLoggingReport.get_request.pack(iova, length, page_size)
        argsz = FIXED + len(request) + size
        reply = await self.feature(DmaLoggingReport.number, Operation.GET, request, argsz=argsz)
        if len(reply) != len(request) + size:
            raise PeerError(f"{len(reply)} bytes came for a bitmap of {pages} pages, must be {len(request) + size}")
        return reply[len(request) :]
