"""A small real device that migrates: it keeps its own account of every arc, checks that each is direct, and has a
stream of its own. For the tests of the machine and of both faces."""

import errno
from collections.abc import Iterable

from tests.session.device import LittleDevice
from tests.session.harness import Message, Wire, command
from tests.session.migration_oracle import COMBINATIONS, GROUP, S, direct
from vfuserver.errors import CommandError
from vfuserver.session.features.mig_device_state import MigDeviceState
from vfuserver.vfio import Backend, Later, MigrationFlags, MigrationState, ResetReason
from vfuserver.wire import Layout

GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
FEATURE, READ, WRITE, PRECOPY_INFO = command(16), command(17), command(18), command(19)


class Account:
    """A `Migration` whose stream is `early`, while the device runs, and then `late`, in the pieces given."""

    def __init__(self, flags: MigrationFlags) -> None:
        self.flags = flags
        self.here = S.RUNNING
        self.arcs: list[tuple[MigrationState, MigrationState]] = []
        self.fails: dict[tuple[MigrationState, MigrationState], Exception] = {}
        self.slow = False
        self.laters: list[Later] = []
        self.cancelled = 0
        self.abandoned = 0
        self.early: list[bytes] = []
        self.late: list[bytes] = []
        self.loaded = bytearray()
        self.sizes: list[int] = []
        """Of what was written."""
        self.complete = b""
        """What RESUMING -> STOP accepts; empty: anything."""
        self._early: list[bytes] = []
        self._late: list[bytes] = []

    def arc(self, old: MigrationState, new: MigrationState) -> Later | None:
        assert (old, new) in direct(self.flags), f"{old!r} to {new!r} is not direct"
        assert old is self.here
        self.arcs.append((old, new))
        if self.slow:
            later = Later(f"{old.name} to {new.name}", on_cancel=self._cancel)
            self.laters.append(later)
            return later
        self._do(old, new)
        return None

    def finish(self) -> None:
        """Ends the arc that is under way."""
        later, (old, new) = self.laters.pop(), self.arcs[-1]
        try:
            self._do(old, new)
        except Exception as error:
            later.set_error(error)
        else:
            later.set_result(None)

    def _cancel(self) -> None:
        self.cancelled += 1

    def _do(self, old: MigrationState, new: MigrationState) -> None:
        if (old, new) in self.fails:
            error = self.fails[old, new]
            self.here = getattr(error, "state", old)
            raise error
        if old is S.RESUMING and self.complete and bytes(self.loaded) != self.complete:
            raise CommandError(errno.EPROTO, f"{len(self.loaded)} bytes are not the stream")
        if new in GROUP and old not in GROUP:
            self._early, self._late = list(self.early), list(self.late)
        if new is S.RESUMING:
            self.loaded.clear()
        self.here = new

    def read(self, size: int) -> bytes:
        assert self.here in GROUP
        waiting = self._early or (self._late if self.here is S.STOP_COPY else [])
        if not waiting:
            return b""
        piece, waiting[:1] = waiting[0][:size], [waiting[0][size:]] if len(waiting[0]) > size else []
        return piece

    def write(self, data: bytes | memoryview) -> None:
        assert self.here is S.RESUMING
        if bytes(data).startswith(b"!"):
            raise CommandError(errno.EBADMSG, "no stream begins like that")
        self.loaded += data
        self.sizes.append(len(data))

    def abandon(self) -> None:
        assert self.here is S.RESUMING
        self.abandoned += 1
        self.loaded.clear()
        self.here = S.STOP

    def left(self) -> int:
        return sum(map(len, (*self._early, *self._late)))

    def precopy(self) -> tuple[int, int]:
        assert self.here in GROUP[1:]
        return sum(map(len, self._early)), 0


class MigratingDevice(LittleDevice):
    """LittleDevice with an Account."""

    def __init__(self, flags: MigrationFlags = COMBINATIONS[-1]) -> None:
        super().__init__()
        self.account = Account(flags)
        self.migration = self.account

    def reset(self, reason: ResetReason) -> Later | None:
        self.migration_state = self.account.here = S.RUNNING
        return super().reset(reason)


# -- over the wire


def feature(wire: Wire, number: int, operation: int, data: bytes = b"") -> Message:
    return wire.ask(FEATURE, FEATURE.request.build(argsz=4096, flags=number | operation, data=data))


def get(wire: Wire, number: int, layout: Layout) -> tuple[int, ...]:
    reply = feature(wire, number, GET)
    assert reply.errno == 0
    assert len(reply.payload) == 8 + layout.size
    return layout.unpack(reply.payload[8:])


def state(wire: Wire) -> MigrationState:
    now, fd = get(wire, 2, MigDeviceState.reply)
    assert fd == -1
    return MigrationState(now)


def move(wire: Wire, wanted: int) -> int:
    """SET; its errno. The reply of one that succeeded names the state and no descriptor."""
    reply = feature(wire, 2, SET, MigDeviceState.set_request.pack(wanted, 77))
    if not reply.errno:
        assert MigDeviceState.reply.unpack(reply.payload[8:]) == (wanted, -1)
    return reply.errno


def go(wire: Wire, states: Iterable[MigrationState]) -> None:
    """Sets one state after the other; each must succeed."""
    for wanted in states:
        assert move(wire, wanted) == 0, wanted


def read(wire: Wire, size: int = 4096) -> bytes:
    reply = wire.ask(READ, READ.request.pack(8 + size, size))
    assert reply.errno == 0
    values = READ.reply.parse(reply.payload)
    assert values.argsz == len(reply.payload) == 8 + len(values.data)
    return bytes(values.data)


def write(wire: Wire, data: bytes) -> int:
    return wire.ask(WRITE, WRITE.request.build(argsz=8 + len(data), data=data)).errno


def put(backend: Backend, where: MigrationState) -> None:
    """The device stands there, however it came there."""
    backend.migration_state = where
    assert isinstance(backend.migration, Account)
    backend.migration.here = where
