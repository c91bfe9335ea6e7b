"""DEVICE_GET_REGION_INFO: one region's size and flags, what of it may be mapped, and the descriptors to map."""

import errno
from collections.abc import Sequence
from typing import Final, NamedTuple

from vfuserver.errors import CommandError
from vfuserver.session.command import Command, Request, need_argsz
from vfuserver.session.connection import Connection
from vfuserver.session.quirks import SPARSE_MMAP_FDS
from vfuserver.session.region_capabilities import capability_list, sparse_mmap, sparse_mmap_fds
from vfuserver.vfio import (
    REGION_INFO_CAP_SPARSE_MMAP,
    REGION_INFO_CAP_SPARSE_MMAP_FDS,
    REGION_INFO_CAP_SPARSE_MMAP_FDS_DRAFT,
    Region,
    RegionFlags,
)
from vfuserver.wire import U32, U64, Bits, Layout, Rest


class DeviceGetRegionInfo(Command, number=5, name="DEVICE_GET_REGION_INFO"):
    """VFIO_USER_DEVICE_GET_REGION_INFO (struct vfio_region_info).

    If the capabilities do not fit in the request's argsz, the reply is the fixed part with the argsz that is needed,
    without capabilities and without a descriptor: the client asks again, and QEMU would close it (field-notes C.3).
    Areas of several files are told to a client that knows SPARSE_MMAP_FDS and takes that many descriptors; any other
    one learns of the areas that one descriptor reaches, and sends messages for the rest.
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
    def handle(cls, connection: Connection, request: Request) -> bytes | tuple[bytes, Sequence[int]]:
        """Tells what the backend says. EINVAL: no such index."""
        argsz, _, index, *_ = request.integers
        need_argsz(argsz, cls.request.size)
        if index >= len(connection.regions):
            raise CommandError(errno.EINVAL, f"region {index}, must be below {len(connection.regions)}")
        region = connection.regions[index]
        mappable = _mappable(connection, region)
        listed = capability_list([*mappable.capabilities, *region.capabilities], cls.reply.size)
        needed = cls.reply.size + len(listed)
        head = cls.reply.pack(
            needed,
            _flags(region, mappable, listed),
            index,
            cls.reply.size if listed else 0,  # QEMU checks it in a reply that tells only the size, too
            region.size,
            mappable.offset,
        )
        return (head + listed, mappable.fds) if needed <= argsz else head


class _Mappable(NamedTuple):
    """What may be mapped: the descriptors, where mmap's offsets begin in a single one, and the list of areas."""

    fds: Sequence[int] = ()
    offset: int = 0
    capabilities: Sequence[tuple[int, bytes]] = ()


NOTHING: Final = _Mappable()


def _flags(region: Region, mappable: _Mappable, listed: bytes) -> int:
    flags = region.flags & ~(RegionFlags.MMAP | RegionFlags.CAPS)
    if mappable.fds:
        flags |= RegionFlags.MMAP
    if listed:
        flags |= RegionFlags.CAPS
    return int(flags)


def _mappable(connection: Connection, region: Region) -> _Mappable:
    room = connection.most_fds
    areas = region.mappable
    if not areas or not room:
        return NOTHING
    fd, base, single = region.reached_by_one()
    cap_id = _fds_id(connection)
    fds = list(dict.fromkeys(area.fd for area in areas))
    if len(single) < len(areas) and cap_id and len(fds) <= room:
        return _Mappable(fds, 0, [(cap_id, sparse_mmap_fds(areas, fds))])
    if not single:
        return NOTHING
    listed = [(REGION_INFO_CAP_SPARSE_MMAP, sparse_mmap(single))] if region.areas else []
    return _Mappable([fd], base, listed)


def _fds_id(connection: Connection) -> int:
    """The id of SPARSE_MMAP_FDS for this client; 0: it does not know it."""
    if connection.options.quirks[SPARSE_MMAP_FDS] == "16":
        return REGION_INFO_CAP_SPARSE_MMAP_FDS_DRAFT
    return REGION_INFO_CAP_SPARSE_MMAP_FDS if connection.theirs.sparse_mmap_fds else 0
