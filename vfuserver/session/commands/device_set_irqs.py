"""DEVICE_SET_IRQS: which eventfds the device signals, and which vectors are masked.

`flags` hold one DATA bit (on which vectors: all of the range, those whose byte is not 0, or one eventfd each) and one
ACTION bit. SHAPES is the whole of it; a pair that is not there is EINVAL.
"""

import errno
from collections.abc import Callable
from typing import Final

from vfuserver._core import is_eventfd
from vfuserver.errors import CommandError
from vfuserver.session.command import Command, Request, Survival, need_argsz
from vfuserver.session.connection import Connection
from vfuserver.session.descriptors import Descriptors
from vfuserver.session.irqs import InterruptPort
from vfuserver.vfio import IrqFlags, IrqSetFlags, PciIrq
from vfuserver.wire import U32, Bits, Layout, Rest

DATA: Final = int(IrqSetFlags.DATA_NONE | IrqSetFlags.DATA_BOOL | IrqSetFlags.DATA_EVENTFD)
DISABLE: Final = IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_TRIGGER
"""With start and count 0: forget everything about the index."""

Act = Callable[[InterruptPort, int, list[int]], None]
ACTIONS: Final[dict[IrqSetFlags, Act]] = {
    IrqSetFlags.ACTION_MASK: InterruptPort.mask,
    IrqSetFlags.ACTION_UNMASK: InterruptPort.unmask,
    IrqSetFlags.ACTION_TRIGGER: InterruptPort.loop_back,
}


class DeviceSetIrqs(Command, number=8, name="DEVICE_SET_IRQS"):
    """VFIO_USER_DEVICE_SET_IRQS (struct vfio_irq_set; S2.22).

    DATA_EVENTFD takes one eventfd per vector, or none: the vectors lose theirs. A descriptor that is no eventfd is
    EINVAL, so that signalling never blocks. argsz must not claim more than there is; less is well: QEMU always says 20.
    MASK and UNMASK are for indexes that say MASKABLE.
    """

    max_fds = 16
    """QEMU and cloud-hypervisor send no more with one message (field-notes C.2, C.10)."""
    request = Layout(
        "argsz" / U32,
        "flags" / Bits(IrqSetFlags),
        "index" / U32,
        "start" / U32,
        "count" / U32,
        "data" / Rest,
    )

    @classmethod
    def survival(cls, payload: bytes) -> Survival:
        """It is done again."""
        return Survival.AGAIN

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> bytes:
        """Assigns, takes away, masks, unmasks or signals."""
        argsz, flags, index, start, count = request.integers
        need_argsz(argsz, cls.request.size)
        if argsz > len(request.payload):
            raise CommandError(
                errno.EINVAL, f"argsz {argsz}, must be at most the payload's {len(request.payload)} bytes"
            )
        shape = SHAPES.get((flags & DATA, flags & ~DATA))
        if shape is None:
            raise CommandError(errno.EINVAL, f"flags {flags:#x}, must be one DATA and one ACTION bit")
        _check_range(connection, flags, index, start, count)
        _check_maskable(connection.backend.irqs[index].flags, flags & ~DATA, index)
        if len(request.fds) and not flags & IrqSetFlags.DATA_EVENTFD:
            raise CommandError(errno.EINVAL, f"{len(request.fds)} descriptors, but flags {flags:#x} take none")
        shape(connection.irqs, request, index, start, count)
        return b""


def _check_range(connection: Connection, flags: int, index: int, start: int, count: int) -> None:
    irqs = connection.backend.irqs
    if index >= len(irqs):
        raise CommandError(errno.EINVAL, f"interrupt index {index}, must be below {len(irqs)}")
    if count == 0 and (start or flags != DISABLE):
        raise CommandError(errno.EINVAL, f"start {start}, count 0, flags {flags:#x}: must be 0, 0, NONE | TRIGGER")
    if start + count > irqs[index].count:
        raise CommandError(errno.EINVAL, f"vectors {start}+{count} of index {index}, which has {irqs[index].count}")


def _check_maskable(has: IrqFlags, action: int, index: int) -> None:
    """QEMU unmasks INTx whatever its flags say, to have a level that is still high signalled (field-notes C.6)."""
    if action == IrqSetFlags.ACTION_TRIGGER or (action == IrqSetFlags.ACTION_UNMASK and index == PciIrq.INTX):
        return
    if not has & (IrqFlags.MASKABLE | IrqFlags.AUTOMASKED):  # AUTOMASKED implies it (linux/vfio.h)
        raise CommandError(errno.EINVAL, f"interrupt index {index} cannot be masked or unmasked: its flags are {has!r}")


Shape = Callable[[InterruptPort, Request, int, int, int], None]


def _all(action: IrqSetFlags) -> Shape:
    def act(irqs: InterruptPort, request: Request, index: int, start: int, count: int) -> None:
        if count == 0:
            irqs.disable(index)
        else:
            ACTIONS[action](irqs, index, list(range(start, start + count)))

    return act


def _chosen(action: IrqSetFlags) -> Shape:
    def act(irqs: InterruptPort, request: Request, index: int, start: int, count: int) -> None:
        chosen = request.payload[DeviceSetIrqs.request.size :][:count]
        if len(chosen) < count:
            raise CommandError(errno.EINVAL, f"{len(chosen)} booleans for {count} vectors")
        ACTIONS[action](irqs, index, [start + i for i, true in enumerate(chosen) if true])

    return act


def _eventfds(action: IrqSetFlags) -> Shape:
    def act(irqs: InterruptPort, request: Request, index: int, start: int, count: int) -> None:
        if not len(request.fds):
            irqs.deassign(action, index, start, count)
            return
        _must_be_eventfds(request.fds, count)
        irqs.assign(action, index, start, request.fds.take())

    return act


def _must_be_eventfds(fds: Descriptors, count: int) -> None:
    if len(fds) != count:
        raise CommandError(errno.EINVAL, f"{len(fds)} descriptors for {count} vectors, must be one each or none")
    for i in range(len(fds)):
        if not is_eventfd(fds[i]):
            raise CommandError(errno.EINVAL, f"descriptor {i} must be an eventfd")


SHAPES: Final[dict[tuple[int, int], Shape]] = {
    (data, action): of(action)
    for data, of in (
        (IrqSetFlags.DATA_NONE, _all),
        (IrqSetFlags.DATA_BOOL, _chosen),
        (IrqSetFlags.DATA_EVENTFD, _eventfds),
    )
    for action in ACTIONS
}
