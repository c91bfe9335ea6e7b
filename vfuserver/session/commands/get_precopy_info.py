"""GET_PRECOPY_INFO: how much is left to read before the device stops."""

from vfuserver.session.command import Command, Request, need_argsz
from vfuserver.session.connection import Connection
from vfuserver.wire import U32, U64, Layout


class GetPrecopyInfo(Command, number=19, name="GET_PRECOPY_INFO"):
    """VFIO_USER_GET_PRECOPY_INFO (struct vfio_precopy_info; the specification of the VFIO tree after 0.9.2).

    EINVAL: not in PRE_COPY or PRE_COPY_P2P (S3.13). ENOTTY: the device does not migrate.
    """

    request = Layout("argsz" / U32, "flags" / U32, "initial_bytes" / U64, "dirty_bytes" / U64)
    reply = request

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> bytes:
        """Tells, without any effect. Of the request argsz counts."""
        need_argsz(request.integers[0], cls.request.size)
        return cls.reply.pack(cls.reply.size, 0, *connection.migration.precopy())
