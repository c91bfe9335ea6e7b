"""DMA_MAP: a range of the client's memory that the device may reach from now on."""

import errno
from enum import IntFlag

from vfuserver.errors import CommandError
from vfuserver.session.command import Command, Request, need_argsz
from vfuserver.session.connection import Connection
from vfuserver.session.options import PAGE
from vfuserver.wire import U32, U64, Bits, Layout


class DmaMapFlags(IntFlag):
    """`flags` of DMA_MAP."""

    READ = 1 << 0
    WRITE = 1 << 1


ALLOWED = int(DmaMapFlags.READ | DmaMapFlags.WRITE)  # an integer: ~ of an IntFlag knows only its own bits


class DmaMap(Command, number=2, name="DMA_MAP"):
    """VFIO_USER_DMA_MAP: with a descriptor the range is mapped from it, without one only messages reach it.

    S1.10: argsz, alignment, wrap, permission and undefined flag bits EINVAL; overlap EEXIST; too many areas ENOSPC.
    """

    max_fds = 1
    request = Layout("argsz" / U32, "flags" / Bits(DmaMapFlags), "offset" / U64, "address" / U64, "size" / U64)

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> bytes:
        """Adds one area."""
        argsz, flags, offset, address, size = request.integers
        need_argsz(argsz, cls.request.size)
        if flags & ~ALLOWED or not flags:
            raise CommandError(errno.EINVAL, f"flags {flags:#x}, must be READ (1), WRITE (2) or both")
        check_range(connection, address, size)
        fd = request.fds[0] if len(request.fds) else -1
        if fd >= 0 and offset % PAGE:
            raise CommandError(errno.EINVAL, f"file offset {offset:#x}, must be a multiple of {PAGE}")
        connection.ioas.map(address, size, flags, fd, offset if fd >= 0 else 0)
        return b""


def smallest_page(connection: Connection) -> int:
    """The granularity of areas in bytes: the lowest bit of pgsizes."""
    pgsizes = connection.options.pgsizes
    return pgsizes & -pgsizes


def check_range(connection: Connection, address: int, size: int) -> None:
    """CommandError(EINVAL): empty, misaligned, or beyond 2**64 (an end of exactly 2**64 is none, S1.10)."""
    page = smallest_page(connection)
    if size == 0 or (address | size) % page:
        raise CommandError(errno.EINVAL, f"{address:#x}+{size:#x}, must be whole pages of {page} bytes")
    if address + size > 1 << 64:
        raise CommandError(errno.EINVAL, f"{address:#x}+{size:#x} goes beyond 2**64")
