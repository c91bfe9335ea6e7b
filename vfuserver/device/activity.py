"""Everything of one device that goes on by itself: runs of jobs, asynchronous accesses, timers; one brake for all.

It must not know what jobs and timers do, nor registers. Device state that outlives a process is not here: jobs and
timers tell their own (`job`, `timer`).
"""

import errno
import logging
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any, Final, Protocol

from vfuserver.device.run import Brake, Run
from vfuserver.errors import CommandError, LocalError
from vfuserver.vfio import Later

log = logging.getLogger(__name__)

MOST_RUNS: Final = 65536
"""Runs of one device at a time."""


class Reason(Enum):
    """Why activity is held; each reason ends by itself."""

    OWN = "the device is quiet, or stopped"
    NEIGHBOURS = "one beside it is stopped"


class Holdable(Protocol):
    """What stop() holds and run() releases besides runs: timers."""

    def hold(self) -> None:
        """Time stands still."""

    def release(self) -> None:
        """Time goes on; also called when a loop may have become available."""


class Activity:
    """The runs and timers of one device."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.brake = Brake()
        self.timers: list[Holdable] = []
        self._runs: set[Run] = set()
        self._answers: dict[Run, Later] = {}
        self._holds: dict[Reason, tuple[bool, bool]] = {}

    @property
    def answering(self) -> int:
        """How many asynchronous accesses are under way."""
        return len(self._answers)

    def start(
        self, coroutine: Coroutine[Any, Any, Any], what: str, finished: Callable[[object], None] | None = None
    ) -> Run:
        """Runs a coroutine; without a running loop it begins when one is there (`kick`)."""

        def done(run: Run, result: object) -> None:
            self._runs.discard(run)
            if isinstance(result, Exception):
                log.error("%s: %s failed: %s", self.owner, what, result, exc_info=result)
            if finished is not None:
                finished(result)

        return self._launch(Run(coroutine, self.brake, done, what=f"{self.owner} {what}"))

    def answer(self, coroutine: Coroutine[Any, Any, Any], what: str) -> Later:
        """Runs the coroutine of an asynchronous access; its result, or its exception, answers the access."""

        def done(run: Run, result: object) -> None:
            self._forget(run)
            if isinstance(result, Exception) and not isinstance(result, CommandError):
                log.error("%s: %s failed: %s", self.owner, what, result, exc_info=result)
            later.set_result(result)

        run = Run(coroutine, self.brake, done, what=f"{self.owner} {what}", answering=True)
        later = self._answers[run] = Later(run.what, on_cancel=lambda: self.end(run))
        self._launch(run)
        return later

    def end(self, run: Run) -> None:
        """Ends one run at once."""
        self._forget(run)
        run.end()

    def end_all(self) -> None:
        """Ends every run at once: reset, close. Accesses that wait for one are answered with EIO."""
        for run in tuple(self._runs):
            later = self._answers.get(run)
            self.end(run)
            if later is not None:
                later.set_error(CommandError(errno.EIO, f"{run.what}: the device was reset"))

    @property
    def unanswered(self) -> list[str]:
        """The asynchronous accesses that somebody waits for."""
        return [run.what for run in self._answers]

    def hold(self, why: Reason = Reason.OWN, *, gently: bool = False, answers: bool = False) -> None:
        """Runs stop at their next await (`gently`: those inside a DMA transfer after it; `answers`: not those that an
        access waits for), timers stand still. Another hold for the same reason replaces this one."""
        self._holds[why] = gently, answers
        self._brake()
        for timer in self.timers:
            timer.hold()

    def release(self, why: Reason = Reason.OWN) -> None:
        """What was held goes on, unless it is held for another reason."""
        self._holds.pop(why, None)
        self._brake()
        self.kick()

    def kick(self) -> None:
        """Starts what waited for a loop."""
        for run in self._runs:
            run.launch()
        if not self.brake.on:
            for timer in self.timers:
                timer.release()

    def client_lost(self) -> None:
        """DMA of everything that is running now fails from here on, even if another client comes."""
        for run in self._runs:
            run.client_lost = True

    def _brake(self) -> None:
        holds = self._holds.values()
        if holds:
            self.brake.hold(gently=all(gently for gently, _ in holds), answers=all(answers for _, answers in holds))
        else:
            self.brake.release()

    def _forget(self, run: Run) -> None:
        self._runs.discard(run)
        self._answers.pop(run, None)

    def _launch(self, run: Run) -> Run:
        if len(self._runs) >= MOST_RUNS:
            raise LocalError(f"{self.owner}: more than {MOST_RUNS} jobs at a time; {run.what} is not started")
        self._runs.add(run)
        run.launch()
        return run
