"""What a backend says about one region, and how it is served. It must not know sockets or messages."""

from collections.abc import Callable
from dataclasses import dataclass, field

from vfuserver._core import Table
from vfuserver.vfio.io_event import IoEvent
from vfuserver.vfio.later import Later
from vfuserver.vfio.uapi import RegionFlags

_NO_FLAGS = RegionFlags(0)

RegionAccess = Callable[[int, int, bytes | None], bytes | Later | None]
"""access(offset, count, None) returns `count` bytes; access(offset, count, data) writes and returns None, or a Later
that is completed with None when the write has had its effect. CommandError(errno)."""


@dataclass(frozen=True, slots=True)
class MmapArea:
    """One piece of a region that a client may map: offset and size in bytes, multiples of 4096.

    It lies in the region's file, or at `fd_offset` of a file of its own.
    """

    offset: int
    size: int
    fd: int = -1
    fd_offset: int = 0


@dataclass(frozen=True, slots=True)
class Region:
    """One region of a device, by its VFIO index in `Backend.regions`.

    `table` or `access` serves it (both None: an absent region, size 0). `fd`, if any, is the file whose bytes
    [fd_offset, fd_offset + size) are the region; clients may map `areas` of it (empty with an fd: the whole region).
    Areas may have files of their own instead. The backend keeps ownership of all. `io_events`: writes that may come by
    eventfd instead of by message. `capabilities`: (id, what follows the header) of further ones that its info lists.
    """

    size: int = 0
    flags: RegionFlags = _NO_FLAGS
    table: Table | None = None
    access: RegionAccess | None = None
    fd: int = -1
    fd_offset: int = 0
    areas: tuple[MmapArea, ...] = field(default=())
    io_events: tuple[IoEvent, ...] = field(default=())
    capabilities: tuple[tuple[int, bytes], ...] = field(default=())


ABSENT = Region()
"""A region index that the device does not implement: size 0, no flags."""
