"""MIG_PRECOPY_INFOv2: the client knows what the flags of GET_PRECOPY_INFO mean."""

from vfuserver.session.connection import Connection
from vfuserver.session.feature import Feature, Operation
from vfuserver.vfio import MigrationFlags


class MigPrecopyInfoV2(Feature, number=12, name="MIG_PRECOPY_INFOv2", operations=Operation.SET):
    """VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 (linux/vfio.h): has no data. ENOTTY: the device has no PRE_COPY.

    Our devices never start their initial bytes anew, so the flags are zero with it and without.
    """

    @classmethod
    def offered(cls, connection: Connection) -> bool:
        """To devices with PRE_COPY."""
        return connection.migrates and MigrationFlags.PRE_COPY in connection.migration.flags

    @classmethod
    def set(cls, connection: Connection, data: bytes) -> bytes:
        """Nothing has to be remembered."""
        return b""
