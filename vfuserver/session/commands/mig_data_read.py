"""MIG_DATA_READ: bytes of the device's state, while it is being saved."""

from vfuserver.session.command import Answer, Command, Request, need_argsz
from vfuserver.session.connection import Connection
from vfuserver.session.quirks import MIG_DATA_READ
from vfuserver.wire import U32, Blob, Count, Layout


class MigDataRead(Command, number=17, name="MIG_DATA_READ"):
    """VFIO_USER_MIG_DATA_READ (S3.11, S3.12): fewer bytes than asked for are all that there is now, in STOP_COPY ever.

    EINVAL: not in a saving state, more than max_data_xfer_size, or argsz without room for so many. ENOTTY: the device
    does not migrate.
    """

    request = Layout("argsz" / U32, "size" / U32)
    reply = Layout("argsz" / U32, "size" / Count(U32, "data"), "data" / Blob("size"))

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> Answer:
        """Reads the stream."""
        argsz, size = request.integers
        need_argsz(argsz, cls.request.size + size)
        connection.check_transfer(size)
        pieces = connection.migration.read(size)
        count = sum(map(len, pieces))
        if connection.options.quirks[MIG_DATA_READ] == "padded":
            pieces.append(bytes(size - count))
        return [cls.request.pack(cls.request.size + count, count), *pieces]
