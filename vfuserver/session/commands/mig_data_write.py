"""MIG_DATA_WRITE: bytes of the device's state, while it is being loaded. Declared, not served yet."""

from vfuserver.session.command import Command
from vfuserver.wire import U32, Blob, Count, Layout


class MigDataWrite(Command, number=18, name="MIG_DATA_WRITE"):
    """VFIO_USER_MIG_DATA_WRITE (S3.14). Older texts give the reply no payload, the newest argsz and size."""

    request = Layout("argsz" / U32, "size" / Count(U32, "data"), "data" / Blob("size"))
    reply = Layout("argsz" / U32, "size" / U32)
