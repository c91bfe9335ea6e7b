"""DEVICE_FEATURE: the door to `vfuserver.session.features`."""

from vfuserver.session.command import Answer, Command, Request, Survival
from vfuserver.session.connection import Connection
from vfuserver.session.feature import FEATURES, INDEX_MASK, Operation, answer
from vfuserver.wire import U32, Layout, Rest


class DeviceFeature(Command, number=16, name="DEVICE_FEATURE"):
    """VFIO_USER_DEVICE_FEATURE (struct vfio_device_feature): flags are an index and GET, SET or PROBE bits (S0.3)."""

    request = Layout("argsz" / U32, "flags" / U32, "data" / Rest)
    reply = Layout("argsz" / U32, "flags" / U32, "data" / Rest)

    @classmethod
    def survival(cls, payload: bytes) -> Survival:
        """What the feature says of its SET."""
        flags = cls.request.unpack(payload)[1]
        feature = FEATURES.get(flags & INDEX_MASK)
        return feature.survival if feature is not None and flags & Operation.SET else Survival.NOTHING

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> Answer:
        """Asks the feature. ENOTTY: there is none of this index."""
        argsz, flags = request.integers
        return answer(connection, FEATURES.get, argsz, flags, request.payload)
