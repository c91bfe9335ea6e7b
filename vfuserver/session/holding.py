"""The one command of a connection that is answered later: its deadline and its answer.

The core holds the connection from the moment a handler or a register hook returned something that is no answer; it
tells `hold`. A `Later` then ends in one of three ways, and whichever comes first counts: its owner completes it; the
deadline passes (ETIMEDOUT is answered and logged, because a reply that comes after the client's own time-out kills
the connection: field-notes G); or the connection ends (nothing is answered).

It must not know commands or regions: `complete` sends the answer.
"""

import errno
from collections.abc import Callable

from vfuserver.errors import CommandError
from vfuserver.session.log import ConnectionLog
from vfuserver.session.ports import Cancellable, Schedule
from vfuserver.vfio import Later

Complete = Callable[[object], None]
"""complete(result): int or None for a register, bytes for a command, an exception for an error reply."""


class Holding:
    """At most one `Later` of a connection."""

    def __init__(self, complete: Complete, schedule: Schedule, deadline: float, log: ConnectionLog) -> None:
        self._complete = complete
        self._schedule = schedule
        self._deadline = deadline
        self._log = log
        self._later: Later | None = None
        self._timer: Cancellable | None = None

    @property
    def what(self) -> str | None:
        """What waits for its answer, or None."""
        return None if self._later is None else self._later.what

    def hold(self, later: Later) -> None:
        """Answers when `later` is completed, or with ETIMEDOUT at the deadline."""
        self._later = later
        self._timer = self._schedule(self._deadline, lambda: self._expire(later))
        later.when_done(lambda result: self._answer(later, result))

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        later = self._forget()
        if later is not None:
            self._stop(later)

    def _answer(self, later: Later, result: object) -> None:
        if self._later is not later:
            return
        self._forget()
        self._complete(result)

    def _expire(self, later: Later) -> None:
        if self._later is not later:
            return
        self._forget()
        self._stop(later)
        self._complete(CommandError(errno.ETIMEDOUT, f"{later.what}: no answer within {self._deadline:g} s"))

    def _forget(self) -> Later | None:
        later, self._later = self._later, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return later

    def _stop(self, later: Later) -> None:
        try:
            later.cancel()
        except Exception:
            self._log.exception("%s: stopping it failed", later.what)
