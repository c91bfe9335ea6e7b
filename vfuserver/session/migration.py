"""The migration machine: the state of a device as its client moves it, and the one stream that it saves or loads.

The way between two states is `migration_arcs`'; the device does one direct arc at a time. After a failure the state is
the last one reached, or what the device says (S3.7). What a client leaves unfinished is ended when it goes (S3.23):
PRE_COPY becomes RUNNING, PRE_COPY_P2P RUNNING_P2P, and STOP_COPY and RESUMING become STOP; every other state stays
until the next client's request or reset.

It must not know messages: both faces of migration (device features, and the region of version 1) work on this.
"""

import errno
import logging
import time
from collections import deque
from collections.abc import Sequence, Set
from functools import partial
from typing import Any, Final

from vfuserver.errors import CommandError, LocalError
from vfuserver.session.log import ConnectionLog
from vfuserver.session.migration_arcs import BLOCKED, SAVING, path, states
from vfuserver.vfio import Backend, Later, Migration, MigrationError, MigrationFlags, MigrationState

RUNNING, STOP, RUNNING_P2P = MigrationState.RUNNING, MigrationState.STOP, MigrationState.RUNNING_P2P
STOP_COPY, RESUMING, ERROR = MigrationState.STOP_COPY, MigrationState.RESUMING, MigrationState.ERROR
PRE_COPY, PRE_COPY_P2P = MigrationState.PRE_COPY, MigrationState.PRE_COPY_P2P

PLAIN: Final = {PRE_COPY: RUNNING, PRE_COPY_P2P: RUNNING_P2P}
"""The state that a device is in which is asked for one of pre-copy that it does not have."""

LEFT_BEHIND: Final = {**PLAIN, STOP_COPY: STOP}
"""The arc that ends what a client that has gone was saving."""


class Machine:
    """One connection's hand on a device that migrates. The state itself is the device's (`Backend.migration_state`)."""

    def __init__(
        self,
        backend: Backend,
        migration: Migration,
        log: ConnectionLog,
        *,
        p2p: bool = True,
        precopy: bool = False,
        apart: bool = False,
        slow: float = 1.0,
    ) -> None:
        """Without `p2p` a client can neither see nor ask for the P2P states, though ways still lead through them.

        With `precopy` every device has those states: one that has none of its own just runs there, and has nothing to
        say (version 1 knows no device without them). With `apart` what such a state gives counts for nothing: the way
        from there to STOP_COPY leaves the stream and begins it anew. An arc of more than `slow` seconds is a warning
        (S3.26).
        """
        self._backend, self._migration, self._log, self._slow = backend, migration, log, slow
        self._apart = apart
        self._stands_in = precopy and MigrationFlags.PRE_COPY not in migration.flags
        hidden = MigrationFlags(0) if p2p else MigrationFlags.P2P
        self.flags = (migration.flags | (MigrationFlags.PRE_COPY if precopy else 0)) & ~hidden
        """What the client is told."""
        self.streams = 0
        """How many streams were begun, to save or to load."""
        self._ended = False
        self._ahead: deque[bytes | memoryview] = deque()

    @property
    def state(self) -> MigrationState:
        """Where the device stands."""
        return self._backend.migration_state

    def move(self, wanted: int) -> Later | None:
        """Goes to a state, arc by arc. CommandError: EINVAL (no such state or no way there), or an arc's own."""
        way = self._way(wanted)
        if way is None:
            text = f"{_name(wanted)} cannot be reached from {self.state.name}: {self._hint()}"
            raise CommandError(errno.EINVAL, text)
        return self._walk(way)

    def read(self, size: int) -> list[bytes | memoryview]:
        """The next bytes that are saved, in the device's own pieces: fewer than `size` only if there are no more now,
        or, in STOP_COPY, ever. CommandError(EINVAL): nothing is being saved.
        """
        self._must_be(SAVING, "read the stream")
        self._look_ahead(size)
        taken: list[bytes | memoryview] = []
        while size and self._ahead:
            piece = self._ahead.popleft()
            if len(piece) > size:
                self._ahead.appendleft(piece[size:])
                piece = piece[:size]
            taken.append(piece)
            size -= len(piece)
        return taken

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes to load. CommandError: EINVAL (not RESUMING), or what the device has against them."""
        self._must_be({RESUMING}, "write the stream")
        self._migration.write(data)

    def left(self) -> int:
        """About how many bytes are still to be read until the end, in any state (feature 9)."""
        return (self._waiting if self.state in SAVING else 0) + self._migration.left()

    def precopy(self) -> tuple[int, int]:
        """Initial and dirty bytes still to be read while the device runs. CommandError(EINVAL): not in PRE_COPY."""
        self._must_be({PRE_COPY, PRE_COPY_P2P}, "tell what pre-copy has left")
        if self._stands_in:
            return 0, 0
        initial, dirty = self._migration.precopy()
        return self._waiting + initial, dirty

    def waiting(self, most: int) -> int:
        """Bytes that can be read now, up to `most`; 0: none now, or, in STOP_COPY, the end. They stay unread."""
        self._must_be(SAVING, "tell what is pending")
        self._look_ahead(most)
        return min(self._waiting, most)

    def carry(self) -> list[Any]:
        """What goes on in another process, besides the device: plain data."""
        return [self.streams, self._ended, b"".join(self._ahead)]

    def adopt(self, carried: Sequence[Any]) -> None:
        """Goes on from what carry() gave."""
        self.streams, self._ended, ahead = carried
        self._ahead = deque([ahead] if ahead else [])

    def abandon(self) -> None:
        """The client has gone: its stream is discarded. Never raises; a device that fails at this is in ERROR."""
        old = self.state
        try:
            if old is RESUMING:
                self._migration.abandon()
                self._backend.migration_state = STOP
            elif old in LEFT_BEHIND:
                self._leave(old, LEFT_BEHIND[old])
        except Exception as error:
            self._lost(old, error)

    # -- arcs

    def _way(self, wanted: int) -> tuple[MigrationState, ...] | None:
        if wanted not in states(self.flags) or self.state is ERROR:
            return None
        new = MigrationState(wanted)
        if self._apart and new is STOP_COPY and self.state in PLAIN:
            return (*(self._chain(STOP) or ()), STOP_COPY)
        return self._chain(new)

    def _chain(self, new: MigrationState) -> tuple[MigrationState, ...] | None:
        if not self._stands_in:
            return path(self._migration.flags, self.state, new)
        if self.state is new or (self.state, new) in BLOCKED:
            return () if self.state is new else None
        first, last = PLAIN.get(self.state, self.state), PLAIN.get(new, new)
        between = path(self._migration.flags, first, last) or ()
        return (*((first,) if first is not self.state else ()), *between, *((new,) if last is not new else ()))

    def _arc(self, old: MigrationState, new: MigrationState) -> Later | None:
        """Has the device do it, unless it takes one of the two states for the other."""
        if self._stands_in and PLAIN.get(old, old) is PLAIN.get(new, new):
            return None
        return self._migration.arc(old, new)

    def _walk(self, way: tuple[MigrationState, ...]) -> Later | None:
        for at, new in enumerate(way, 1):
            later = self._step(self.state, new)
            if later is not None:
                return later.then(partial(self._walk, way[at:]))
        return None

    def _step(self, old: MigrationState, new: MigrationState) -> Later | None:
        started = time.monotonic()
        try:
            later = self._arc(old, new)
        except Exception as error:
            self._failed(old, new, error)
            raise
        if later is None:
            self._arrived(old, new, started)
            return None
        arrival = Later(later.what, on_cancel=later.cancel)

        def ended(result: object) -> None:
            if isinstance(result, BaseException):
                self._failed(old, new, result)
            else:
                self._arrived(old, new, started)
            arrival.set_result(result)

        later.when_done(ended)
        return arrival

    def _arrived(self, old: MigrationState, new: MigrationState, started: float) -> None:
        self._backend.migration_state = new
        if new is RESUMING or (new in SAVING and old not in SAVING):
            self.streams += 1
        if old not in SAVING or new not in SAVING:
            self._ended, self._ahead = False, deque()
        taken = time.monotonic() - started
        level = logging.WARNING if taken > self._slow else logging.INFO
        self._log.log(level, "migration: %s to %s in %.1f ms", old.name, new.name, taken * 1000)

    def _failed(self, old: MigrationState, new: MigrationState, error: BaseException) -> None:
        if isinstance(error, MigrationError):
            self._backend.migration_state = error.state
        now = self.state.name
        self._log.provoked(logging.ERROR, "migration: %s to %s failed, now in %s: %s", old.name, new.name, now, error)

    def _leave(self, old: MigrationState, new: MigrationState) -> None:
        """The arc that a client who has gone does not see the end of: the device is told, and that is it."""
        self._backend.migration_state = new
        later = self._arc(old, new)
        if later is not None:
            later.when_done(lambda result: self._lost(old, result) if isinstance(result, BaseException) else None)

    def _lost(self, old: MigrationState, error: BaseException) -> None:
        self._backend.migration_state = error.state if isinstance(error, MigrationError) else ERROR
        self._log.error("migration: ending %s, as the client has gone, failed", old.name, exc_info=error)

    # -- the stream

    @property
    def _waiting(self) -> int:
        return sum(map(len, self._ahead))

    def _look_ahead(self, size: int) -> None:
        """Has `size` bytes at hand, if the device has as many: on the wire fewer than asked for mean something (S3.12).
        Where a later piece fails the earlier ones are not lost."""
        missing = size - self._waiting
        while missing > 0 and not self._ended and not (self._stands_in and self.state in PLAIN):
            piece = self._migration.read(missing)
            if len(piece) > missing:
                raise LocalError(f"{self._backend.name}: read({missing}) gave {len(piece)} bytes, must be no more")
            self._ended = not piece and self.state is STOP_COPY
            if not piece:
                break
            self._ahead.append(piece)
            missing -= len(piece)

    def _must_be(self, legal: Set[MigrationState], what: str) -> None:
        if self.state not in legal:
            names = " or ".join(sorted(state.name for state in legal & states(self.flags)))
            text = f"in {self.state.name} nobody can {what}, the state must be {names or 'PRE_COPY'}"
            raise CommandError(errno.EINVAL, text)

    def _hint(self) -> str:
        if self.state is ERROR:
            return "only a reset leaves ERROR"
        blocked = {new for old, new in BLOCKED if old is self.state}
        return f"must be one of {', '.join(sorted(state.name for state in states(self.flags) - blocked))}"


def _name(state: int) -> str:
    return MigrationState(state).name if state in MigrationState._value2member_map_ else f"state {state}"
