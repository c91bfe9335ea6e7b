"""REGION_READ: served by the compiled core (native/core/stream.c); this declaration is its oracle."""

from vfuserver.session.command import Command
from vfuserver.wire import U32, U64, Blob, Count, Layout


class RegionRead(Command, number=9, name="REGION_READ"):
    """VFIO_USER_REGION_READ: `count` bytes at `offset`. EINVAL: count 0 or above the limit, or beyond the region."""

    in_core = True
    request = Layout("offset" / U64, "region" / U32, "count" / U32)
    reply = Layout("offset" / U64, "region" / U32, "count" / Count(U32, "data"), "data" / Blob("count"))
