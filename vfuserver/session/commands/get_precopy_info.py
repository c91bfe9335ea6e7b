"""GET_PRECOPY_INFO: how much is left to read before the device stops. Declared, not served yet."""

from vfuserver.session.command import Command
from vfuserver.wire import U32, U64, Layout


class GetPrecopyInfo(Command, number=19, name="GET_PRECOPY_INFO"):
    """VFIO_USER_GET_PRECOPY_INFO (struct vfio_precopy_info; the specification of the VFIO tree after 0.9.2)."""

    request = Layout("argsz" / U32, "flags" / U32, "initial_bytes" / U64, "dirty_bytes" / U64)
    reply = Layout("argsz" / U32, "flags" / U32, "initial_bytes" / U64, "dirty_bytes" / U64)
