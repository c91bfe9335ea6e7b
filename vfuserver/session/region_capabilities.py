"""The capabilities of a region's info: what of it may be mapped, and from which descriptor; for both ends.

One file behind a region is VFIO's own SPARSE_MMAP; several are SPARSE_MMAP_FDS of vfio-user, where each area names its
descriptor. It must not know connections.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Final

from vfuserver.vfio import (
    REGION_INFO_CAP_SPARSE_MMAP,
    REGION_INFO_CAP_SPARSE_MMAP_FDS,
    REGION_INFO_CAP_SPARSE_MMAP_FDS_DRAFT,
    MmapArea,
)
from vfuserver.wire import U16, U32, U64, Array, Count, Layout, LayoutError

CAP_HEADER: Final = Layout("id" / U16, "version" / U16, "next" / U32)
"""struct vfio_info_cap_header; `next` counts from the start of the region info, 0 ends the list."""

AREA: Final = Layout("offset" / U64, "size" / U64)
"""struct vfio_region_sparse_mmap_area, in bytes within the region."""

SPARSE_MMAP: Final = Layout("nr_areas" / Count(U32, "areas"), "reserved" / U32, "areas" / Array("nr_areas", AREA))
"""What follows the header of VFIO_REGION_INFO_CAP_SPARSE_MMAP (version 1)."""

FD_AREA: Final = Layout("offset" / U64, "fd_offset" / U64, "size" / U64, "fd_index" / U32, "pad" / U32)
"""An area, where it begins in its file, and which of the message's descriptors that is."""

SPARSE_MMAP_FDS: Final = Layout(
    "nr_areas" / Count(U32, "areas"), "reserved" / U32, "areas" / Array("nr_areas", FD_AREA)
)
"""What follows the header of VFIO_REGION_INFO_CAP_SPARSE_MMAP_FDS (version 1)."""


def sparse_mmap(areas: Iterable[MmapArea]) -> bytes:
    """The capability that lists what may be mapped of one file, without its header."""
    listed = [AREA.pack(area.offset, area.size) for area in areas]
    return SPARSE_MMAP.pack(len(listed), 0) + b"".join(listed)


def sparse_mmap_fds(areas: Iterable[MmapArea], fds: Sequence[int]) -> bytes:
    """The capability that lists areas of several files, `fds`, without its header."""
    listed = [FD_AREA.pack(area.offset, area.fd_offset, area.size, fds.index(area.fd), 0) for area in areas]
    return SPARSE_MMAP_FDS.pack(len(listed), 0) + b"".join(listed)


def capability_list(capabilities: Sequence[tuple[int, bytes]], at: int) -> bytes:
    """The list of (id, what follows the header), each of version 1, that begins at byte `at` of a region info."""
    listed = b""
    for number, (cap_id, body) in enumerate(capabilities, 1):
        following = at + len(listed) + CAP_HEADER.size + len(body)
        listed += CAP_HEADER.pack(cap_id, 1, following if number < len(capabilities) else 0) + body
    return listed


def mappable_areas(reply: bytes, at: int, fds: Sequence[int] = ()) -> tuple[MmapArea, ...]:
    """The areas that the capability list at `at` of a region info names, () if none.

    Areas of SPARSE_MMAP_FDS have their descriptor out of `fds`. LayoutError: a broken list, no such descriptor, an
    area that is empty or overlaps another.
    """
    areas: tuple[MmapArea, ...] = ()
    seen = set()
    while at:
        if at in seen or at + CAP_HEADER.size > len(reply):
            raise LayoutError(f"the capability list of {len(reply)} bytes leads to offset {at}")
        seen.add(at)
        cap_id, _, following = CAP_HEADER.unpack(reply[at:])
        if cap_id in _READERS:
            areas += _READERS[cap_id](reply[at + CAP_HEADER.size :], fds)
        at = following
    for before, area in pairwise(sorted(areas, key=lambda area: area.offset)):
        if before.offset + before.size > area.offset:
            raise LayoutError(f"mappable areas overlap at {area.offset:#x}")
    return areas


def _read_areas(body: bytes, _fds: Sequence[int]) -> tuple[MmapArea, ...]:
    return tuple(MmapArea(area.offset, area.size) for area in SPARSE_MMAP.parse(body).areas)


def _read_fd_areas(body: bytes, fds: Sequence[int]) -> tuple[MmapArea, ...]:
    listed = SPARSE_MMAP_FDS.parse(body).areas
    for area in listed:
        if area.fd_index >= len(fds) or not area.size:
            raise LayoutError(
                f"the area at {area.offset:#x} has {area.size} bytes of descriptor {area.fd_index} of {len(fds)}"
            )
    return tuple(MmapArea(area.offset, area.size, fds[area.fd_index], area.fd_offset) for area in listed)


_READERS: Final[dict[int, Callable[[bytes, Sequence[int]], tuple[MmapArea, ...]]]] = {
    REGION_INFO_CAP_SPARSE_MMAP: _read_areas,
    REGION_INFO_CAP_SPARSE_MMAP_FDS: _read_fd_areas,
    REGION_INFO_CAP_SPARSE_MMAP_FDS_DRAFT: _read_fd_areas,
}
