"""MIG_DATA_SIZE: how much a device that stops now would still give."""

from vfuserver.session.connection import Connection
from vfuserver.session.feature import Feature, Operation
from vfuserver.wire import U64, Layout


class MigDataSize(Feature, number=9, name="MIG_DATA_SIZE", operations=Operation.GET):
    """VFIO_DEVICE_FEATURE_MIG_DATA_SIZE (linux/vfio.h; S3.13): an estimate in bytes, in any state. QEMU asks for it
    though the vfio-user specification does not list it (field-notes C.9)."""

    reply = Layout("stop_copy_length" / U64)

    @classmethod
    def offered(cls, connection: Connection) -> bool:
        """To devices that migrate."""
        return connection.migrates

    @classmethod
    def get(cls, connection: Connection, data: bytes) -> bytes:
        """Tells, without any effect."""
        return cls.reply.pack(connection.migration.left())
