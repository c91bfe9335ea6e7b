"""REGION_WRITE: served by the compiled core (native/core/stream.c); this declaration is its oracle."""

from vfuserver.session.command import Command
from vfuserver.wire import U32, U64, Blob, Count, Layout


class RegionWrite(Command, number=10, name="REGION_WRITE"):
    """VFIO_USER_REGION_WRITE: `count` bytes at `offset`; errors as REGION_READ."""

    in_core = True
    request = Layout("offset" / U64, "region" / U32, "count" / Count(U32, "data"), "data" / Blob("count"))
    reply = Layout("offset" / U64, "region" / U32, "count" / U32)
