"""SET_IRQS and eventfds, for the tests about interrupts."""

import os
from collections.abc import Callable

from tests.session.device import LittleDevice
from tests.session.harness import Wire
from vfuserver.session.commands.device_set_irqs import DeviceSetIrqs
from vfuserver.vfio import IrqSetFlags, PciIrq

NONE, BOOL, EVENTFD = IrqSetFlags.DATA_NONE, IrqSetFlags.DATA_BOOL, IrqSetFlags.DATA_EVENTFD
MASK, UNMASK, TRIGGER = IrqSetFlags.ACTION_MASK, IrqSetFlags.ACTION_UNMASK, IrqSetFlags.ACTION_TRIGGER
INTX, MSI, MSIX, ERR, REQ = PciIrq

Events = Callable[[int], list[int]]
"""events(count): new eventfds, closed when the test ends (a fixture)."""


def set_irqs(
    wire: Wire, flags: int, index: int, start: int, count: int, fds: list[int] | None = None, data: bytes = b""
) -> int:
    request = DeviceSetIrqs.request.pack(20 + len(data), flags, index, start, count) + data
    reply = wire.ask(DeviceSetIrqs, request, fds or [])
    assert reply.payload == b""
    return reply.errno


def signalled(fds: list[int]) -> list[int]:
    """How often each eventfd was signalled since it was last looked at."""
    counts = []
    for fd in fds:
        try:
            counts.append(os.eventfd_read(fd))
        except BlockingIOError:
            counts.append(0)
    return counts


def trigger(wire: Wire, index: int, vector: int) -> bool:
    return wire.session.connection.interrupts.trigger(index, vector)


def ready(device: LittleDevice) -> list[object]:
    return [entry[1:] for entry in device.log if isinstance(entry, tuple) and entry[0] == "ready"]
