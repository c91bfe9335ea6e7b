"""DEVICE_GET_REGION_INFO: one region's size and flags, what of it may be mapped, and the descriptor to map."""

import errno
from collections.abc import Iterable
from typing import Final

from vfuserver.errors import CommandError
from vfuserver.session.command import Command, Request, need_argsz
from vfuserver.session.connection import Connection
from vfuserver.vfio import REGION_INFO_CAP_SPARSE_MMAP, MmapArea, Region, RegionFlags
from vfuserver.wire import U16, U32, U64, Array, Bits, Count, Layout, LayoutError, Rest

CAP_HEADER: Final = Layout("id" / U16, "version" / U16, "next" / U32)
"""struct vfio_info_cap_header; `next` counts from the start of the region info, 0 ends the list."""

AREA: Final = Layout("offset" / U64, "size" / U64)
"""struct vfio_region_sparse_mmap_area, in bytes within the region."""

SPARSE_MMAP: Final = Layout("nr_areas" / Count(U32, "areas"), "reserved" / U32, "areas" / Array("nr_areas", AREA))
"""What follows the header of VFIO_REGION_INFO_CAP_SPARSE_MMAP (version 1)."""


class DeviceGetRegionInfo(Command, number=5, name="DEVICE_GET_REGION_INFO"):
    """VFIO_USER_DEVICE_GET_REGION_INFO (struct vfio_region_info).

    If the capabilities do not fit in the request's argsz, the reply is the fixed part with the argsz that is needed,
    without capabilities and without a descriptor: the client asks again, and QEMU would close it (field-notes C.3).
    """

    request = Layout(
        "argsz" / U32,
        "flags" / Bits(RegionFlags),
        "index" / U32,
        "cap_offset" / U32,
        "size" / U64,
        "offset" / U64,
    )
    reply = Layout(
        "argsz" / U32,
        "flags" / Bits(RegionFlags),
        "index" / U32,
        "cap_offset" / U32,
        "size" / U64,
        "offset" / U64,
        "capabilities" / Rest,
    )

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> bytes | tuple[bytes, list[int]]:
        """Tells what the backend says. EINVAL: no such index."""
        argsz, _, index, *_ = request.integers
        need_argsz(argsz, cls.request.size)
        if index >= len(connection.backend.regions):
            raise CommandError(errno.EINVAL, f"region {index}, must be below {len(connection.backend.regions)}")
        region = connection.backend.regions[index]
        mappable = region.fd >= 0 and connection.theirs.max_msg_fds > 0
        caps = sparse_mmap(region.areas) if mappable and region.areas else b""
        fits = cls.reply.size + len(caps) <= argsz
        head = cls.reply.pack(
            cls.reply.size + len(caps),
            _flags(region, mappable, bool(caps)),
            index,
            cls.reply.size if caps else 0,  # QEMU checks it in a reply that tells only the size, too
            region.size,
            region.fd_offset if mappable else 0,
        )
        return (head + caps, [region.fd] if mappable else []) if fits else head


def _flags(region: Region, mappable: bool, capabilities: bool) -> int:
    flags = region.flags & ~(RegionFlags.MMAP | RegionFlags.CAPS)
    if mappable:
        flags |= RegionFlags.MMAP
    if capabilities:
        flags |= RegionFlags.CAPS
    return int(flags)


def sparse_mmap(areas: Iterable[MmapArea]) -> bytes:
    """The capability that lists what may be mapped, as the only one of its list."""
    listed = [{"offset": area.offset, "size": area.size} for area in areas]
    header = CAP_HEADER.pack(REGION_INFO_CAP_SPARSE_MMAP, 1, 0)
    return header + SPARSE_MMAP.build(reserved=0, areas=listed)


def mappable_areas(reply: bytes) -> tuple[MmapArea, ...]:
    """The areas that a reply's capability list names; () if it has no such list. LayoutError: a broken list."""
    at = DeviceGetRegionInfo.reply.unpack(reply)[3]
    areas: tuple[MmapArea, ...] = ()
    seen = set()
    while at:
        if at in seen or at + CAP_HEADER.size > len(reply):
            raise LayoutError(f"the capability list of {len(reply)} bytes leads to offset {at}")
        seen.add(at)
        cap_id, _, following = CAP_HEADER.unpack(reply[at:])
        if cap_id == REGION_INFO_CAP_SPARSE_MMAP:
            listed = SPARSE_MMAP.parse(reply[at + CAP_HEADER.size :]).areas
            areas = tuple(MmapArea(area.offset, area.size) for area in listed)
        at = following
    return areas
