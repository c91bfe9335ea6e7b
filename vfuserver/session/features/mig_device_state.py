"""MIG_DEVICE_STATE: where a device stands, and where it shall go."""

from vfuserver.session.command import Survival
from vfuserver.session.connection import Connection
from vfuserver.session.feature import Feature, Operation
from vfuserver.vfio import Later
from vfuserver.wire import S32, U32, Layout

NO_FD = -1
"""The stream goes by messages: there is never a descriptor."""


class MigDeviceState(Feature, number=2, name="MIG_DEVICE_STATE", operations=Operation.GET | Operation.SET):
    """VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE (linux/vfio.h; S3.3-S3.8).

    A SET is answered when the last arc is done. EINVAL: a state that the device does not have, or no way there; else
    what the arc that failed said: the client asks where the device stands.
    """

    survival = Survival.KEPT_ANEW
    set_request = Layout("device_state" / U32, "data_fd" / S32)
    reply = set_request

    @classmethod
    def offered(cls, connection: Connection) -> bool:
        """To devices that migrate."""
        return connection.migrates

    @classmethod
    def get(cls, connection: Connection, data: bytes) -> bytes:
        """Tells, without any effect."""
        return cls.reply.pack(connection.migration.state, NO_FD)

    @classmethod
    def set(cls, connection: Connection, data: bytes) -> bytes | Later:
        """Moves the device."""
        wanted, _ = cls.set_request.unpack(data)
        reply = cls.reply.pack(wanted, NO_FD)
        later = connection.migration.move(wanted)
        return reply if later is None else later.map(lambda _: reply)
