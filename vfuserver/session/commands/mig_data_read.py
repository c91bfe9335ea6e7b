"""MIG_DATA_READ: bytes of the device's state, while it is being saved. Declared, not served yet."""

from vfuserver.session.command import Command
from vfuserver.wire import U32, Blob, Count, Layout


class MigDataRead(Command, number=17, name="MIG_DATA_READ"):
    """VFIO_USER_MIG_DATA_READ (S3.11)."""

    request = Layout("argsz" / U32, "size" / U32)
    reply = Layout("argsz" / U32, "size" / Count(U32, "data"), "data" / Blob("size"))
