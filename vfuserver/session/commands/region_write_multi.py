"""REGION_WRITE_MULTI: served by the compiled core (native/core/stream.c); this declaration is its oracle."""

from typing import Final

from vfuserver.session.command import Command
from vfuserver.wire import U32, U64, Array, Blob, Count, Layout

WRITE: Final = Layout("offset" / U64, "region" / U32, "count" / U32, "data" / Blob(8))
"""One write of at most 8 bytes; `data` is padded to 8."""


class RegionWriteMulti(Command, number=15, name="REGION_WRITE_MULTI"):
    """VFIO_USER_REGION_WRITE_MULTI: writes that QEMU had to queue, each as if it had come alone."""

    in_core = True
    request = Layout("wr_cnt" / Count(U64, "wrs"), "wrs" / Array("wr_cnt", WRITE))
    reply = Layout("wr_cnt" / U64)
