"""What a backend says about one region, and how it is served. It must not know sockets or messages."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

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
    `waits`: names of registers whose hooks answer later, for an engine that cannot wait.
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
    waits: tuple[str, ...] = field(default=())

    @property
    def mappable(self) -> tuple[MmapArea, ...]:
        """The areas that lie in a file, each with that file."""
        areas = [self._placed(area) for area in self.areas or (MmapArea(0, self.size),)]
        return tuple(area for area in areas if area.fd >= 0)

    def reached_by_one(self) -> tuple[int, int, tuple[MmapArea, ...]]:
        """The mappable areas, as many bytes as possible, that one descriptor and one base offset reach; these come
        first. (-1, 0, ()): none."""
        groups: dict[tuple[int, int], list[MmapArea]] = {}
        for area in self.mappable:
            base = area.fd_offset - area.offset
            if base >= 0:
                groups.setdefault((area.fd, base), []).append(area)
        if not groups:
            return -1, 0, ()
        (fd, base), most = max(groups.items(), key=lambda group: sum(area.size for area in group[1]))
        return fd, base, tuple(most)

    def _placed(self, area: MmapArea) -> MmapArea:
        """An area with its file; one without a file of its own lies in the region's."""
        return area if area.fd >= 0 else replace(area, fd=self.fd, fd_offset=self.fd_offset + area.offset)


ABSENT = Region()
"""A region index that the device does not implement: size 0, no flags."""
