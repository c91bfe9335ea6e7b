"""DEVICE_GET_INFO: what kind of device this is, and how many regions and interrupt indexes it has."""

from vfuserver.session.command import Command, Request, need_argsz
from vfuserver.session.connection import Connection
from vfuserver.vfio import DeviceFlags
from vfuserver.wire import U32, Bits, Layout


class DeviceGetInfo(Command, number=4, name="DEVICE_GET_INFO"):
    """VFIO_USER_DEVICE_GET_INFO (struct vfio_device_info). Request fields other than argsz are ignored."""

    request = Layout("argsz" / U32, "flags" / Bits(DeviceFlags), "num_regions" / U32, "num_irqs" / U32)
    reply = Layout("argsz" / U32, "flags" / Bits(DeviceFlags), "num_regions" / U32, "num_irqs" / U32)

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> bytes:
        """Tells what the backend says."""
        need_argsz(request.integers[0], cls.request.size)
        backend = connection.backend
        return cls.reply.pack(cls.reply.size, backend.device_flags, len(connection.regions), len(backend.irqs))
