"""MIGRATION: whether a device can be saved and loaded, and what else it can do about it."""

from vfuserver.session.connection import Connection
from vfuserver.session.feature import Feature, Operation
from vfuserver.vfio import MigrationFlags
from vfuserver.wire import U64, Bits, Layout


class Migration(Feature, number=1, name="MIGRATION", operations=Operation.GET):
    """VFIO_DEVICE_FEATURE_MIGRATION (linux/vfio.h; S3.2). ENOTTY: it does not migrate."""

    reply = Layout("flags" / Bits(MigrationFlags, U64))

    @classmethod
    def offered(cls, connection: Connection) -> bool:
        """To devices that migrate."""
        return connection.migrates

    @classmethod
    def get(cls, connection: Connection, data: bytes) -> bytes:
        """Tells."""
        return cls.reply.pack(connection.migration.flags)
