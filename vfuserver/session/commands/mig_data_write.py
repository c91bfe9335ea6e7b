"""MIG_DATA_WRITE: bytes of the device's state, while it is being loaded."""

import errno

from vfuserver.errors import CommandError
from vfuserver.session.command import Command, Request, need_argsz
from vfuserver.session.connection import Connection
from vfuserver.wire import U32, Blob, Count, Layout


class MigDataWrite(Command, number=18, name="MIG_DATA_WRITE"):
    """VFIO_USER_MIG_DATA_WRITE (S3.14). Older texts give the reply no payload, the newest argsz and size.

    EINVAL: not in RESUMING, more than max_data_xfer_size, fewer bytes than `size`, or argsz that does not cover them;
    else what the device has against the bytes. ENOTTY: the device does not migrate.
    """

    request = Layout("argsz" / U32, "size" / Count(U32, "data"), "data" / Blob("size"))
    reply = Layout("argsz" / U32, "size" / U32)

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> bytes:
        """Writes the stream."""
        argsz, size = request.integers
        need_argsz(argsz, cls.request.size + size)
        connection.check_transfer(size)
        data = memoryview(request.payload)[cls.request.size :][:size]
        if len(data) < size:
            raise CommandError(errno.EINVAL, f"{len(data)} bytes came, must be at least the {size} that it says")
        connection.migration.write(data)
        return cls.reply.pack(cls.reply.size, size)
