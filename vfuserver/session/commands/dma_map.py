"""DMA_MAP: a range of the client's memory that the device may reach from now on."""

import errno
from enum import IntFlag

from vfuserver.errors import CommandError
from vfuserver.iommu import AreaAccess
from vfuserver.session.command import Command, Request, Survival, need_argsz
from vfuserver.session.connection import Connection
from vfuserver.session.options import PAGE
from vfuserver.wire import U32, U64, Bits, Layout


class DmaMapFlags(IntFlag):
    """`flags` of DMA_MAP."""

    READ = 1 << 0
    WRITE = 1 << 1
    MMAP = 1 << 2
    """The descriptor may be mapped."""
    FILE_IO = 1 << 3
    """The descriptor may be read and written, at the offset of the area."""


PERMISSIONS = int(DmaMapFlags.READ | DmaMapFlags.WRITE)  # integers: ~ of an IntFlag knows only its own bits
MODES = int(DmaMapFlags.MMAP | DmaMapFlags.FILE_IO)
WAYS = {
    0: AreaAccess.MAPPED,  # clients from before there were modes
    int(DmaMapFlags.MMAP): AreaAccess.MAPPED,
    int(DmaMapFlags.FILE_IO): AreaAccess.FILE,
    MODES: AreaAccess.MAPPED | AreaAccess.FILE,
}
"""How the descriptor of a DMA_MAP may be used, by its mode bits."""


class DmaMap(Command, number=2, name="DMA_MAP"):
    """VFIO_USER_DMA_MAP: with a descriptor the range is reached through it, without one only messages reach it.

    The mode bits say how: mapped (also where neither is set), by file I/O, or (both) by file I/O where it cannot be
    mapped. S1.10: argsz, alignment, wrap, permission and undefined flag bits EINVAL, a mode without a descriptor too;
    overlap EEXIST; too many areas, bytes or files ENOSPC. The core does what is right without asking here.
    """

    max_fds = 1
    request = Layout("argsz" / U32, "flags" / Bits(DmaMapFlags), "offset" / U64, "address" / U64, "size" / U64)

    @classmethod
    def survival(cls, payload: bytes) -> Survival:
        """It is done again."""
        return Survival.AGAIN

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> bytes:
        """Adds one area."""
        argsz, flags, offset, address, size = request.integers
        need_argsz(argsz, cls.request.size)
        if flags & ~(PERMISSIONS | MODES) or not flags & PERMISSIONS:
            text = "must be READ (1), WRITE (2) or both, and perhaps MMAP (4) and FILE_IO (8)"
            raise CommandError(errno.EINVAL, f"flags {flags:#x}, {text}")
        check_range(connection, address, size)
        prot, mode = flags & PERMISSIONS, flags & MODES
        if mode and not len(request.fds):
            raise CommandError(errno.EINVAL, f"flags {flags:#x} name a mode, must come with a descriptor")
        try:
            if len(request.fds):
                cls._map_file(connection, (address, size, prot, request.fds[0], offset), WAYS[mode])
            else:
                connection.ioas.map(address, size, prot)
        except CommandError as error:
            if error.errno == errno.ENOSPC:
                raise CommandError(errno.ENOSPC, _limit(connection, size)) from error
            raise
        return b""

    @staticmethod
    def _map_file(connection: Connection, area: tuple[int, int, int, int, int], ways: AreaAccess) -> None:
        offset = area[-1]
        if ways & AreaAccess.MAPPED and offset % PAGE:
            raise CommandError(errno.EINVAL, f"file offset {offset:#x}, must be a multiple of {PAGE} to be mapped")
        connection.ioas.map(*area, ways)


def _limit(connection: Connection, size: int) -> str:
    """Which limit a DMA_MAP of `size` bytes has met, and how to raise it."""
    options, ioas = connection.options, connection.ioas
    if ioas.count >= options.max_dma_maps:
        return f"{ioas.count} areas are mapped, no more may be (serve --max-dma-maps {options.max_dma_maps})"
    if size > options.max_dma_bytes - ioas.mapped:
        text = f"{ioas.mapped:#x} bytes are mapped, {size:#x} more are too many"
        return f"{text} (serve --max-dma-bytes {options.max_dma_bytes:#x})"
    return "clients' files have a quarter of this process's descriptors, must be fewer files (or a larger ulimit -n)"


def check_range(connection: Connection, address: int, size: int) -> None:
    """CommandError(EINVAL): empty, misaligned, or beyond 2**64 (an end of exactly 2**64 is none, S1.10)."""
    page = connection.options.dma_page
    if size == 0 or (address | size) % page:
        raise CommandError(errno.EINVAL, f"{address:#x}+{size:#x}, must be whole pages of {page} bytes")
    if address + size > 1 << 64:
        raise CommandError(errno.EINVAL, f"{address:#x}+{size:#x} goes beyond 2**64")
