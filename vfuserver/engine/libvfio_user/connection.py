"""What belongs to one client of a context: its memory, its eventfds, its log. Also the device's `vfio.Client` port.

Of every message it is told before and after the library serves it, and in between, if the library asks the device to
quiesce, what it must have done by then: a reset, a change of the migration state, views given back. It must not know
sockets or loops.
"""

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from vfuserver.engine.libvfio_user.ahead import ACCESS, LONG, Ahead
from vfuserver.engine.libvfio_user.context import Context
from vfuserver.engine.libvfio_user.interrupts import Interrupts
from vfuserver.engine.libvfio_user.memory import Memory
from vfuserver.engine.libvfio_user.messages import Messages, Turns
from vfuserver.engine.libvfio_user.migration import Migration
from vfuserver.engine.libvfio_user.peek import MOST_FDS, Answered, Look, close_all
from vfuserver.engine.libvfio_user.regions import Doorbells
from vfuserver.errors import CommandError, LocalError
from vfuserver.session.commands.device_feature import DeviceFeature
from vfuserver.session.commands.device_get_region_io_fds import DeviceGetRegionIoFds
from vfuserver.session.commands.device_reset import DeviceReset
from vfuserver.session.commands.device_set_irqs import DeviceSetIrqs
from vfuserver.session.commands.dma_map import DmaMap, DmaMapFlags
from vfuserver.session.commands.dma_unmap import DmaUnmap, DmaUnmapFlags
from vfuserver.session.commands.mig_data_read import MigDataRead
from vfuserver.session.commands.region_read import RegionRead
from vfuserver.session.log import ConnectionLog
from vfuserver.session.migration import Machine
from vfuserver.session.options import SessionOptions
from vfuserver.session.ports import Cancellable
from vfuserver.session.quirks import PRE_COPY, REGION_ERRORS
from vfuserver.session.recall import Recall
from vfuserver.vfio import Backend, IoEvent, Later, ResetReason
from vfuserver.vfio import Interrupts as InterruptsPort
from vfuserver.vfio import Memory as MemoryPort
from vfuserver.wire import HEADER_SIZE

GET, SET = 1 << 16, 1 << 17
"""VFIO_DEVICE_FEATURE_GET and _SET."""
STATE, LOG_START, LOG_STOP, LOG_REPORT = 2, 6, 7, 8
"""VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, _DMA_LOGGING_START, _STOP and _REPORT."""
STATE_SIZE: Final = 16
"""argsz, flags, device_state, data_fd."""
EVERYTHING: Final = 1 << 64


class Host(Turns, Protocol):
    """Who drives the connection."""

    def watch(self, fd: int, event: IoEvent) -> None:
        """Hears a doorbell until the connection ends."""

    def when_readable(self, fd: int, callback: Callable[[], None]) -> Cancellable:
        """Calls back whenever `fd` is readable, until it is cancelled."""


class Connection:
    """One client, from VERSION until the connection ends."""

    def __init__(
        self,
        context: Context,
        backend: Backend,
        options: SessionOptions,
        migration: Migration | None,
        doorbells: Doorbells,
        host: Host,
        peer_pid: int | None = None,
    ) -> None:
        self.backend, self.peer_pid = backend, peer_pid
        self.log = ConnectionLog(backend.name)
        self.irqs = Interrupts(context, backend.irqs, backend.interrupts_ready, host.when_readable)
        self.messages = Messages(context, host, lambda iova: self.areas.is_by_file(iova))
        self.areas = Memory(context, backend.gate, options, self.messages, self.log)
        self.memory: MemoryPort = self.areas.access
        self.interrupts: InterruptsPort = self.irqs
        self._migration = migration
        if migration is not None:
            migration.machine = _machine(backend, options, self.log)
        schedule, patience = asyncio.get_running_loop().call_later, min(options.revoke_after, options.deadline / 2)
        self._recall = Recall(self.areas.ioas, self.areas.access.ask_back, schedule, patience, self.log)
        masks = options.quirks[REGION_ERRORS] == "all-ones"
        self.accesses = Ahead(backend.regions, self._hook_error, masks)
        self._doorbells, self._host = doorbells, host
        self._attached = self._ended = False
        self._reset_error: BaseException | None = None
        self._reset_done = False
        self.received = 0
        """Messages that the library has served."""
        self._fds: list[int] = []

    @property
    def label(self) -> str:
        """Device and connection, as in the log: `edu#3`."""
        return self.log.label

    def attach(self) -> None:
        """The device learns of its client. Whatever it raises, there is none then."""
        self.backend.attach(self)
        self._attached = True

    def end(self) -> None:
        """The client is gone: its memory and eventfds are not used any more, the device is detached. Idempotent."""
        if self._ended:
            return
        self._ended = True
        self.messages.close()
        self.areas.access.detach()
        if self._migration is not None and self._migration.machine is not None:
            self._migration.machine.abandon()
            self._migration.settle()
            self._migration.machine = None
        if self._attached:
            try:
                self.backend.detach()
            except Exception:
                self.log.exception("the device failed to detach")
        self.areas.close()
        self.irqs.close()
        self.accesses.close()
        close_all(self._fds)
        self.log.tell_withheld()

    # -- one message

    def ahead(self, look: Look, payload: Callable[[], bytes]) -> Later | None:
        """A message that may take time is dealt with before the library sees it; `payload()` is all of it. A Later: it
        takes time, and the library must not see it yet."""
        if look.command == MigDataRead.number:
            self._read_ahead(look)
        if self._stopped or not self.accesses.concerns(look.command, look.size, look.integers(ACCESS)):
            return None
        return self.accesses.begin(look.command, payload())

    def answers_at_length(self, look: Look) -> bool:
        """Whether the reply is so long that the library may have to wait until the client reads it."""
        if look.command == RegionRead.number:
            return (look.integers(ACCESS) or (0, 0, 0))[2] > LONG
        argsz, flags = look.integers("II") or (0, 0)  # a migration's data has no flags, but a size there
        reports = look.command == DeviceFeature.number and flags == GET | LOG_REPORT
        return argsz > LONG and (reports or look.command == MigDataRead.number)

    def before(self, look: Look, payload: Callable[[], bytes], descriptors: Callable[[], list[int]]) -> None:
        """The library is about to serve a message; `payload()` gives all of it, `descriptors()` duplicates of those
        that came with it. The library must not see it if this raises: Answered, or CommandError with the errno."""
        self._fds = descriptors() if look.has_fds else []
        try:
            self._prepare(look, payload)
        except (Answered, CommandError):
            close_all(self._fds)
            raise
        if look.command != DeviceSetIrqs.number:
            close_all(self._fds)

    def _prepare(self, look: Look, payload: Callable[[], bytes]) -> None:
        if len(self._fds) > MOST_FDS:
            raise CommandError(errno.EINVAL, f"{len(self._fds)} descriptors, must be at most {MOST_FDS} with a message")
        if look.command == DmaUnmap.number:
            self._before_unmap(look)
        elif look.command == DmaMap.number:
            fields = look.integers("II")
            self.areas.by_file = bool(fields and fields[1] & DmaMapFlags.FILE_IO)
        elif look.command == DeviceFeature.number:
            fields = look.integers("IIQQ")
            if fields and fields[1] == GET | LOG_REPORT:
                self.areas.mark_dirty(*fields[2:])
            self._must_name_a_state(look)
        elif look.command == DeviceGetRegionIoFds.number:
            fields = look.integers("IIII")
            asked = fields and fields[0] > 4 * len(fields) and fields[1] == fields[3] == 0
            for fd, event in self._doorbells.give(fields[2]) if fields and asked else ():
                self._host.watch(fd, event)
        elif look.command == DeviceSetIrqs.number and not self._stopped:
            self.irqs.expect(look, payload(), self._fds)

    def quiesce(self, look: Look) -> Later | None:
        """The library asks the device to quiesce for a message: what that will do is done. A Later: it takes time."""
        if look.command == DeviceReset.number:
            return self._begin_reset()
        if look.command == DmaUnmap.number:
            return self._give_back(look)
        if look.command == DeviceFeature.number and self._migration is not None:
            fields = look.integers("III")
            if fields and fields[0] >= look.size - HEADER_SIZE and fields[1] == SET | STATE:
                return self._migration.prepare(fields[2])
        return None

    def give_up(self, error: BaseException) -> None:
        """What ahead() or quiesce() began has failed, or has not come to its end in time."""
        self.accesses.give_up(error)
        self._reset_error = error
        if self._migration is not None:
            self._migration.give_up(error)

    def after(self, look: Look) -> None:
        """The library has served a message, and answered."""
        self.received += 1
        if look.command == DeviceSetIrqs.number:
            if not self._stopped:
                self.irqs.set(look, self._fds)
            close_all(self._fds)
        elif look.command == DeviceFeature.number:
            fields = look.integers("II")
            if fields and fields[1] in (SET | LOG_START, SET | LOG_STOP):
                self.areas.log_writes(fields[1] == SET | LOG_START)

    def reset(self) -> None:
        """The library's callback: the reset that quiesce() has begun is over. Raises what went wrong with it."""
        if not self._reset_done:
            later = self._begin_reset()
            if later is not None:
                later.cancel()
                raise LocalError("the reset takes time, and nobody asked the device to quiesce")
        self._reset_done = False
        error, self._reset_error = self._reset_error, None
        if error is not None:
            raise error
        if self._migration is not None:
            self._migration.settle()

    def dump(self) -> dict[str, Any]:
        """As plain data, for `inspect` (S4.26)."""
        return {
            "label": self.label,
            "client": {},
            "max_transfer": None,
            "twin_socket": False,
            "received": self.received,
            "queued": 0,
            "dma_messages": {"layout": "libvfio-user", "transfers": self.messages.transfers, "messages": 0, "bytes": 0},
            "interrupts": self.irqs.dump(),
        }

    # -- inside

    @property
    def _stopped(self) -> bool:
        """Whether the library refuses most commands, SET_IRQS among them, whatever they say."""
        return self._migration is not None and self._migration.stopped

    def _hook_error(self, region: int, offset: int, error: BaseException) -> None:
        tell(self.log, self.backend.describe_access(region, offset), error)

    def _read_ahead(self, look: Look) -> None:
        fields = look.integers("II")
        if fields and self._migration is not None:
            self._migration.read_ahead(fields[1])

    def _must_name_a_state(self, look: Look) -> None:
        """The library reads the state without looking whether it is there."""
        fields = look.integers("II")
        if fields and fields[1] == SET | STATE and look.size < HEADER_SIZE + STATE_SIZE:
            raise CommandError(
                errno.EINVAL, f"{look.size - HEADER_SIZE} bytes, must be {STATE_SIZE} to name a migration state"
            )

    def _before_unmap(self, look: Look) -> None:
        fields = look.integers("IIQQ")
        if fields and fields[1] == DmaUnmapFlags.GET_DIRTY_BITMAP:
            self.areas.mark_dirty(*fields[2:])

    def _give_back(self, look: Look) -> Later | None:
        fields = look.integers("IIQQ")
        if not fields or not self.areas.ioas.pins:
            return None
        _, flags, iova, size = fields
        if flags == DmaUnmapFlags.ALL:
            iova, size = 0, EVERYTHING
        elif not self.areas.has(iova, size):
            return None
        answer = self._recall.answer("DMA_UNMAP", iova, iova + size - 1, b"")
        return answer if isinstance(answer, Later) else None

    def _begin_reset(self) -> Later | None:
        self._reset_error, self._reset_done = None, True
        try:
            later = self.backend.reset(ResetReason.MESSAGE)
        except Exception as error:
            self._reset_error = error
            return None
        return later


def _machine(backend: Backend, options: SessionOptions, log: ConnectionLog) -> Machine | None:
    if backend.migration is None:
        return None
    apart = options.quirks[PRE_COPY] == "apart"
    return Machine(backend, backend.migration, log, p2p=False, precopy=True, apart=apart, slow=options.slow_arc)


def tell(log: ConnectionLog, where: str, error: BaseException) -> None:
    """A line about an access that failed: the client's mistake, or a model's with its traceback."""
    if isinstance(error, CommandError):
        log.provoked(logging.WARNING, "%s refused: %s", where, str(error))  # a record outlives what its traceback holds
    else:
        log.provoked(logging.ERROR, "%s failed", where, error=error)
