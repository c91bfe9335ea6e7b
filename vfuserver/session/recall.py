"""Views of a range that the client has unmapped: the reply waits until nobody has one any more (S1.9, S4.12).

The areas are gone already, so no new view begins. Whoever holds one is asked to give it back; what is not back after a
bounded time is taken by force, and the log says so: the reply to DMA_UNMAP must come, and is a promise.

It must not know commands or event loops.
"""

import math
from collections.abc import Callable
from typing import Final

from vfuserver._core import Ioas
from vfuserver.session.log import ConnectionLog
from vfuserver.session.ports import Cancellable, Schedule
from vfuserver.vfio import Later

STEP: Final = 0.002
"""Seconds between two looks."""

AskBack = Callable[[int, int], object]
"""ask_back(iova, last): tells the holders of views in the range that the client wants it back."""


class Recall:
    """Takes views back for one command at a time: while it waits, the connection serves no other."""

    def __init__(self, ioas: Ioas, ask_back: AskBack, schedule: Schedule, patience: float, log: ConnectionLog) -> None:
        """`patience` is in seconds."""
        self._ioas, self._ask_back, self._schedule, self._patience, self._log = ioas, ask_back, schedule, patience, log
        self._timer: Cancellable | None = None

    def answer(self, what: str, iova: int, last: int, reply: bytes) -> bytes | Later:
        """`reply`, at once if no view touches [iova, last], else when none does any more. `what` is for the log."""
        if not self._ioas.pinned(iova, last):
            return reply
        self._ask_back(iova, last)
        if not self._ioas.pinned(iova, last):
            return reply
        later = Later(what, on_cancel=self._stop)
        self._wait(later, iova, last, reply, math.ceil(self._patience / STEP))
        return later

    def _wait(self, later: Later, iova: int, last: int, reply: bytes, looks: int) -> None:
        if self._ioas.pinned(iova, last) and looks:
            self._timer = self._schedule(STEP, lambda: self._wait(later, iova, last, reply, looks - 1))
            return
        self._timer = None
        count = self._ioas.revoke(iova, last)
        if count:
            text = "%s of [%#x, %#x]: %d views were not given back within %g s, taken by force: they show zeros now"
            self._log.error(text, later.what, iova, last, count, self._patience)
        later.set_result(reply)

    def _stop(self) -> None:
        """The connection ends, and revokes everything itself."""
        if self._timer is not None:
            self._timer.cancel()
