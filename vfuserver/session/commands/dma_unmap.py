"""DMA_UNMAP: ranges of the client's memory that the device must not touch any more."""

import errno
from enum import IntFlag

from vfuserver.errors import CommandError
from vfuserver.session.command import Answer, Command, Request, Survival, need_argsz
from vfuserver.session.commands.dma_map import check_range
from vfuserver.session.connection import Connection
from vfuserver.wire import U32, U64, Bits, Layout


class DmaUnmapFlags(IntFlag):
    """`flags` of DMA_UNMAP; the specification's text calls them unused, linux/vfio.h names them."""

    GET_DIRTY_BITMAP = 1 << 0
    ALL = 1 << 1


class DmaUnmap(Command, number=3, name="DMA_UNMAP"):
    """VFIO_USER_DMA_UNMAP: removes every area wholly inside the range, never a part of one (S1.10).

    ENOENT: nothing in the range, or an area is cut (then nothing is removed). ALL takes address = size = 0 and
    succeeds on an empty table. The reply is the request's own 24 bytes, and a promise that no later access happens:
    copies under way are through, messages forgotten, views given back or, after a bounded time, revoked (S1.9). The
    core does one that concerns none of these, without asking here.
    """

    request = Layout("argsz" / U32, "flags" / Bits(DmaUnmapFlags), "address" / U64, "size" / U64)
    reply = Layout("argsz" / U32, "flags" / Bits(DmaUnmapFlags), "address" / U64, "size" / U64)

    @classmethod
    def survival(cls, payload: bytes) -> Survival:
        """It is done again."""
        return Survival.AGAIN

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> Answer:
        """Removes areas."""
        argsz, flags, address, size = request.integers
        need_argsz(argsz, cls.request.size)
        if flags not in (0, DmaUnmapFlags.ALL):
            raise CommandError(errno.EINVAL, f"flags {flags:#x}, must be 0 or ALL (2)")
        reply = request.payload[: cls.reply.size]
        if not flags:
            check_range(connection, address, size)
            return connection.unmap(address, size, reply)
        if address or size:
            raise CommandError(errno.EINVAL, f"ALL with {address:#x}+{size:#x}, must be 0+0")
        return connection.unmap_all(reply)
