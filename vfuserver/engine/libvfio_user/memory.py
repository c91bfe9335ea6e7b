"""The client's memory: the library maps the client's files, and tells where; our own address space lies over that.

What is mapped is copied by the core, as with the default engine. The rest (no descriptor, or a map that asks for file
I/O) is reached by vfu_sgl_read and vfu_sgl_write, which block, so they are made beside the loop (`messages`). Writes
are logged by our space; the library answers DMA_LOGGING_REPORT from a log of its own, so before it does, what ours
holds of that range is marked there. It must not know devices.
"""

import errno
from collections.abc import Iterator
from typing import Final

from vfuserver._core import ACCESS_MAPPED, PROT_WRITE, Gate, Ioas
from vfuserver.engine.libvfio_user.context import Context
from vfuserver.errors import CommandError
from vfuserver.iommu import CONTEXT, Access, Kind, MessagePort
from vfuserver.session.log import ConnectionLog
from vfuserver.session.options import SessionOptions

PAGE_SHIFT: Final = 12
PAGE: Final = 1 << PAGE_SHIFT
RUN: Final = 1 << 12
"""Pages of a log that are looked at together."""


class Memory:
    """One connection's address space, and the device's access to it."""

    def __init__(
        self, context: Context, gate: Gate, options: SessionOptions, port: MessagePort, log: ConnectionLog
    ) -> None:
        self._context, self._log = context, log
        self.by_file = False
        """Whether the DMA_MAP that is being served asks for file I/O."""
        self._files: dict[int, int] = {}
        self.ioas = Ioas(gate, max_areas=options.max_dma_maps, max_pins=options.max_dma_views)
        self.access = Access(self.ioas, port, log.label)
        space = CONTEXT.add_ioas(self.ioas, log.label)
        self._ids = [(Kind.ACCESS, CONTEXT.add_access(self.access, space)), (Kind.IOAS, space)]

    def register(self, iova: int, size: int, prot: int, address: int) -> None:
        """The library's callback for DMA_MAP; `address` 0: it is not mapped here. It cannot be refused any more."""
        try:
            if address:
                self.ioas.map_foreign(iova, size, prot, address)
            else:
                self.ioas.map(iova, size, prot)
                if self.by_file:
                    self._files[iova] = size
        except CommandError as error:
            if error.errno != errno.EEXIST or not self.has(iova, size):  # the library answers a map twice
                self._log.error("DMA_MAP %#x+%#x is out of the device's reach: %s", iova, size, error)

    def unregister(self, iova: int, size: int) -> None:
        """The library's callback before a mapping goes: nothing touches it afterwards."""
        if not self.has(iova, size):
            return
        self.ioas.unmap(iova, size)
        self._files.pop(iova, None)
        count = self.ioas.revoke(iova, iova + size - 1)
        if count:
            text = "%#x+%#x is unmapped: %d views of it were taken by force, they show zeros now"
            self._log.error(text, iova, size, count)

    def has(self, iova: int, size: int) -> bool:
        """Whether that is an area, neither more nor less."""
        return [area[:2] for area in self.ioas.areas(iova, 1)] == [(iova, size)]

    def is_by_file(self, iova: int) -> bool:
        """Whether the library reaches the area that holds `iova` by file I/O."""
        return any(start <= iova < start + size for start, size in self._files.items())

    def mark_dirty(self, iova: int, size: int) -> None:
        """Tells the library which pages of a range the device has written since it was asked last."""
        if not self.ioas.logging:
            return
        end = iova + size
        for at, length, prot, access, *_ in self.ioas.areas(iova):
            if at >= end:
                return
            if access == ACCESS_MAPPED and prot & PROT_WRITE:
                for page, run in self._written(max(at, iova), min(at + length, end)):
                    self._mark(max(page, at), min(page + run, at + length))

    def log_writes(self, on: bool) -> None:
        """DMA_LOGGING_START and _STOP have been served."""
        if on and not self.ioas.logging:
            self.ioas.log([])
        elif not on and self.ioas.logging:
            self.ioas.log_stop()

    def close(self) -> None:
        """The client is gone: DMA fails with ENODEV, and nothing of its memory is used. Idempotent."""
        self.access.detach()
        self.log_writes(False)
        ids, self._ids = self._ids, []
        for kind, number in ids:
            CONTEXT.destroy(kind, number)

    def _written(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Runs of written pages as (IOVA, bytes); each is told once."""
        first = start & -PAGE
        pages = (end - first + PAGE - 1) >> PAGE_SHIFT
        for at in range(0, pages, RUN):
            iova = first + (at << PAGE_SHIFT)
            bits = int.from_bytes(self.ioas.report(iova, min(RUN, pages - at), PAGE_SHIFT), "little")
            while bits:
                skip = (bits & -bits).bit_length() - 1
                bits >>= skip
                count = (~bits & bits + 1).bit_length() - 1
                bits >>= count
                iova += skip << PAGE_SHIFT
                yield iova, count << PAGE_SHIFT
                iova += count << PAGE_SHIFT

    def _mark(self, start: int, end: int) -> None:
        context = self._context
        entry = context.scatter(start, end - start, PROT_WRITE)
        if entry is not None:
            context.lib.vfu_sgl_mark_dirty(context.handle, entry, 1)
