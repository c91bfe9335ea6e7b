"""A `vfio.Interrupts` over vfu_irq_trigger.

The library has one table of eventfds for INTx, MSI and MSI-X together, triggers by the vector alone and in a write that
may block, and has no trigger for ERR and REQ; it tells of masks, but not of eventfds that come and go. So each SET_IRQS
is read beforehand, and here stands what the library's tables are then: which index an eventfd was given for, and a
duplicate of it (owned here), to see that a write will not block, and to signal ERR and REQ.

It must not know the device: it calls `ready` when vectors were armed or unmasked.
"""

import errno
import select
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from vfuserver._core import is_eventfd, signal
from vfuserver.engine.libvfio_user.context import Context
from vfuserver.engine.libvfio_user.peek import Answered, Look, close_all
from vfuserver.errors import CommandError
from vfuserver.session.ports import Watch
from vfuserver.session.resample import Resample
from vfuserver.vfio import Irq, IrqSetFlags, PciIrq

SHARED: Final = (PciIrq.INTX, PciIrq.MSI, PciIrq.MSIX)
"""Indexes whose vectors have one table of eventfds in the library; ERR and REQ have one eventfd each."""
ARMED_WITHOUT_FDS: Final = (PciIrq.MSI, PciIrq.MSIX)
ASSIGN: Final = int(IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER)
UNMASK: Final = int(IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_UNMASK)
DISABLE: Final = int(IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_TRIGGER)
FIELDS: Final = struct.Struct("=IIIII")
"""argsz, flags, index, start, count of SET_IRQS."""
Place = tuple[int, int]
"""An entry of the library's tables: (ERR or REQ, or INTX for all the others; vector)."""


class _Slot(NamedTuple):
    """The index that an entry's eventfd was given for, and our duplicate of it."""

    given_for: int
    fd: int


class Interrupts:
    """The eventfds of one connection."""

    def __init__(
        self, context: Context, irqs: Sequence[Irq], ready: Callable[[int, int, int], None], watch: Watch
    ) -> None:
        self._context, self._irqs, self._ready = context, irqs, ready
        self._slots: dict[Place, _Slot] = {}
        self._armed: set[int] = set()
        self._masked: set[tuple[int, int]] = set()
        self._resample = Resample(watch, self._unmasked)
        self._unmask: dict[tuple[int, int], int] = {}
        self._chosen: set[int] | None = None  # the vectors that the present SET_IRQS names by booleans

    # -- the device's side

    def armed(self, index: int) -> bool:
        """True while SET_IRQS has armed the index and not disabled it."""
        return index in self._armed

    def trigger(self, index: int, vector: int) -> bool:
        """Signals the vector's eventfd. False: masked, or no eventfd."""
        slot = self._slots.get(_place(index, vector))
        if slot is None or slot.given_for != index or (index, vector) in self._masked:
            return False
        if index not in SHARED or not _writable(slot.fd):
            signal(slot.fd)
            return True
        return int(self._context.lib.vfu_irq_trigger(self._context.handle, vector)) == 0

    # -- the client's side

    def expect(self, look: Look, payload: bytes, fds: list[int]) -> None:
        """The library is about to serve a SET_IRQS, with duplicates `fds`. CommandError(EINVAL): it must not, as a
        trigger would block then.

        Answered: nor now, as its own write would block, or as it would close an eventfd that unmasks; it has been done.
        """
        self._chosen = None
        fields = look.integers(FIELDS.format)
        if fields is None:
            return
        _, flags, index, start, count = fields
        if not all(is_eventfd(fd) for fd in fds):
            raise CommandError(errno.EINVAL, "SET_IRQS: every descriptor must be an eventfd")
        if flags & IrqSetFlags.DATA_BOOL:
            booleans = payload[FIELDS.size :][:count]
            self._chosen = {start + at for at, true in enumerate(booleans) if true}
        if flags == UNMASK and index in SHARED and len(fds) in (0, count) and count and self._is_legal(*fields):
            self._unmask_by(index, range(start, start + count), fds)
            raise Answered
        loops_back = flags & IrqSetFlags.ACTION_TRIGGER and not flags & IrqSetFlags.DATA_EVENTFD
        if loops_back and self._is_legal(*fields):
            self._loop_back(index, self._named(start, count))

    def state(self, index: int, start: int, count: int, mask: bool) -> None:
        """The library's callback for MASK and UNMASK. It names the whole range, whatever the booleans are."""
        for vector in self._named(start, count):
            if mask:
                self._masked.add((index, vector))
            else:
                self._masked.discard((index, vector))
                self._ready(index, vector, 1)

    def set(self, look: Look, fds: list[int]) -> None:
        """The library has served this SET_IRQS, which came with duplicates `fds`; those that are kept are taken out.

        A message that it has refused changes nothing here: the conditions are its own.
        """
        fields = look.integers(FIELDS.format)
        if fields is None or not self._is_legal(*fields):
            return
        _, flags, index, start, count = fields
        if fds and (not flags & IrqSetFlags.DATA_EVENTFD or len(fds) != count):
            return
        if flags == ASSIGN and fds:
            self._assign(index, start, fds)
            self._ready(index, start, count)
        elif (flags == ASSIGN and count) or (flags == DISABLE and not count):
            self._disable(index, start, count)
            if flags == ASSIGN and index in ARMED_WITHOUT_FDS:
                self._armed.add(index)

    def close(self) -> None:
        """Forgets everything. Idempotent."""
        self._drop(list(self._slots))
        self._resample.close()
        close_all([self._unmask.popitem()[1] for _ in range(len(self._unmask))])
        self._armed.clear()
        self._masked.clear()

    def dump(self) -> dict[str, dict[str, Any]]:
        """By index that the device has: whether it is armed, how many vectors have an eventfd, how many are masked."""
        return {
            index.name: {
                "armed": index in self._armed,
                "eventfds": sum(slot.given_for == index for slot in self._slots.values()),
                "masked": sum(masked == index for masked, _ in self._masked),
            }
            for index in PciIrq
            if self._irqs[index].count
        }

    # -- inside

    def _named(self, start: int, count: int) -> list[int]:
        return [vector for vector in range(start, start + count) if self._chosen is None or vector in self._chosen]

    def _unmask_by(self, index: int, vectors: range, fds: list[int]) -> None:
        """Whoever signals these eventfds unmasks (KVM: the guest has served a level interrupt); none: nobody does. The
        library takes such a message for an unmask at once, and closes them."""
        for vector in vectors:
            self._forget_unmask(index, vector)
            if fds:
                fd = self._unmask[index, vector] = fds.pop(0)
                self._resample.add(fd, index, vector)

    def _forget_unmask(self, index: int, vector: int) -> None:
        fd = self._unmask.pop((index, vector), -1)
        if fd >= 0:
            self._resample.remove(fd)
            close_all([fd])

    def _unmasked(self, index: int, vector: int) -> None:
        self._masked.discard((index, vector))
        self._ready(index, vector, 1)

    def _loop_back(self, index: int, vectors: Iterable[int]) -> None:
        """The client signals its own eventfds: the library does it, unless one of them is full."""
        slots = [slot for vector in vectors if (slot := self._slots.get(_place(index, vector)))]
        if all(_writable(slot.fd) for slot in slots):
            return
        for slot in slots:
            signal(slot.fd)
        raise Answered

    def _is_legal(self, argsz: int, flags: int, index: int, start: int, count: int) -> bool:
        return index < len(self._irqs) and argsz >= FIELDS.size and start < self._irqs[index].count >= start + count

    def _assign(self, index: int, start: int, fds: list[int]) -> None:
        places = [_place(index, vector) for vector in range(start, start + len(fds))]
        self._drop(places)
        for place in places:
            self._slots[place] = _Slot(index, fds.pop(0))
        self._armed.add(index)

    def _disable(self, index: int, start: int, count: int) -> None:
        """What the library does: the entries from `start` to `count` (0: all), whichever index they are of."""
        self._drop([_place(index, vector) for vector in range(start, count or self._irqs[index].count)])
        if not count:
            for vector in range(self._irqs[index].count):
                self._forget_unmask(index, vector)
            self._masked = {(other, vector) for other, vector in self._masked if other != index}
        if not count or index not in ARMED_WITHOUT_FDS:
            self._armed.discard(index)

    def _drop(self, places: Iterable[Place]) -> None:
        close_all([self._slots.pop(place).fd for place in places if place in self._slots])


def callbacks(context: Context, current: Callable[[], Interrupts | None]) -> Iterator[tuple[PciIrq, Any]]:
    """The state callback of each index, for whoever is connected then."""
    for index in SHARED:

        def state(start: int, count: int, mask: bool, index: PciIrq = index) -> None:
            port = current()
            if port is not None:
                port.state(index, start, count, mask)

        yield index, context.callback("vfu_dev_irq_state_cb_t *", state, f"masking {index.name}")


def _place(index: int, vector: int) -> Place:
    return (PciIrq.INTX if index in SHARED else index), vector


def _writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))
