"""DEVICE_GET_REGION_IO_FDS: descriptors by which KVM tells the server of accesses. Declared, not served yet."""

from typing import Final

from vfuserver.session.command import Command
from vfuserver.wire import U32, U64, Array, Count, Layout

SUB_REGION: Final = Layout(
    "offset" / U64,
    "size" / U64,
    "fd_index" / U32,
    "type" / U32,
    "flags" / U32,
    "padding" / U32,
    "datamatch" / U64,
)
"""One sub-region: an ioeventfd (type 0), or an ioregionfd (type 1) whose last field is user_data."""


class DeviceGetRegionIoFds(Command, number=6, name="DEVICE_GET_REGION_IO_FDS"):
    """VFIO_USER_DEVICE_GET_REGION_IO_FDS."""

    request = Layout("argsz" / U32, "flags" / U32, "index" / U32, "count" / U32)
    reply = Layout(
        "argsz" / U32,
        "flags" / U32,
        "index" / U32,
        "count" / Count(U32, "sub_regions"),
        "sub_regions" / Array("count", SUB_REGION),
    )
