"""DEVICE_GET_IRQ_INFO: how many vectors an interrupt index has."""

import errno

from vfuserver.errors import CommandError
from vfuserver.session.command import Command, Request, need_argsz
from vfuserver.session.connection import Connection
from vfuserver.vfio import IrqFlags
from vfuserver.wire import U32, Bits, Layout


class DeviceGetIrqInfo(Command, number=7, name="DEVICE_GET_IRQ_INFO"):
    """VFIO_USER_DEVICE_GET_IRQ_INFO (struct vfio_irq_info)."""

    request = Layout("argsz" / U32, "flags" / Bits(IrqFlags), "index" / U32, "count" / U32)
    reply = Layout("argsz" / U32, "flags" / Bits(IrqFlags), "index" / U32, "count" / U32)

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> bytes:
        """Tells what the backend says. EINVAL: no such index."""
        argsz, _, index, _ = request.integers
        need_argsz(argsz, cls.request.size)
        irqs = connection.backend.irqs
        if index >= len(irqs):
            raise CommandError(errno.EINVAL, f"interrupt index {index}, must be below {len(irqs)}")
        return cls.reply.pack(cls.reply.size, irqs[index].flags, index, irqs[index].count)
