"""Timers: plain methods that are called when their time comes, while the device runs.

A timer's time stands still while the device is stopped, a reset disarms it, and what is left of its time is saved and
restored. It must not know registers or devices.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from typing import Any, Self, overload

from vfuserver.device.activity import Activity
from vfuserver.device.run import running_loop
from vfuserver.errors import DeclarationError, LocalError

log = logging.getLogger(__name__)

_LATEST = 1.0
"""Seconds a periodic timer may fall behind before it gives up calling once for each missed period."""


class Timer:
    """A declared timer, made by the decorator `timer`. On an instance: a BoundTimer."""

    def __init__(self, function: Callable[[Any], None], period: float | None) -> None:
        self.function = function
        self.period = period
        self.name = function.__name__
        self.doc = inspect.getdoc(function) or ""

    def check(self, where: str) -> None:
        """DeclarationError unless it is a plain function, with a period above zero if it has one."""
        if inspect.iscoroutinefunction(self.function):
            raise DeclarationError(f"{where}: a timer must be a plain function (it may start a job), not an async def")
        if self.period is not None and self.period <= 0:
            raise DeclarationError(f"{where}: the period must be more than 0 seconds, not {self.period}")

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> BoundTimer: ...
    def __get__(self, instance: object | None, owner: type) -> Self | BoundTimer:
        """The declaration on the class; an instance's own attribute wins over this descriptor."""
        return self

    def bind(self, device: object, activity: Activity) -> BoundTimer:
        """This timer of one device."""
        return BoundTimer(self, device, activity)


class BoundTimer:
    """One device's timer: start it, stop it, ask whether it is armed."""

    def __init__(self, declared: Timer, device: object, activity: Activity) -> None:
        self._timer = declared
        self._device = device
        self._activity = activity
        self._left: float | None = None  # seconds, while it is not on a loop's schedule
        self._due = 0.0  # the loop's time, while it is
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: asyncio.TimerHandle | None = None
        activity.timers.append(self)

    @property
    def armed(self) -> bool:
        """True while a call is to come; also while the device is stopped."""
        return self._handle is not None or self._left is not None

    def start(self, after: float | None = None) -> None:
        """Arms it anew: the first call comes `after` seconds from now (the period, if it has one and none is given).

        LocalError for a one-shot timer without `after`, or a negative one.
        """
        delay = self._timer.period if after is None else after
        if delay is None or delay < 0:
            raise LocalError(f"{self._activity.owner}: timer {self._timer.name} must have a time of 0 or more seconds")
        self.stop()
        self._left = delay
        if not self._activity.brake.on:
            self.release()

    def stop(self) -> None:
        """Disarms it."""
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._left = self._loop = None

    def hold(self) -> None:
        """The device stops: the rest of the time is kept."""
        self._left = self.left()
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop = None

    def release(self) -> None:
        """The device runs: the rest of the time begins to count, if a loop is there."""
        loop = running_loop()
        if self._left is None or loop is None:
            return
        self._schedule(loop, loop.time() + self._left)

    def left(self) -> float | None:
        """Seconds until the next call, None when it is not armed."""
        if self._loop is None:
            return self._left
        return max(0.0, self._due - self._loop.time())

    def restore(self, left: float | None) -> None:
        """Arms it with what is left from a snapshot, or disarms it."""
        if left is None:
            self.stop()
        else:
            self.start(left)

    def _schedule(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self._left, self._due, self._loop = None, due, loop
        self._handle = loop.call_at(due, self._fire)

    def _fire(self) -> None:
        loop, period = self._loop, self._timer.period
        self._handle = self._loop = None
        if loop is not None and period is not None:
            self._schedule(loop, max(self._due + period, loop.time() - _LATEST))
        try:
            self._timer.function(self._device)
        except Exception:
            log.exception("%s: timer %s failed", self._activity.owner, self._timer.name)


@overload
def timer(function: Callable[[Any], None], /) -> Timer: ...
@overload
def timer(*, period: float) -> Callable[[Callable[[Any], None]], Timer]: ...
def timer(function: Any = None, /, *, period: float | None = None) -> Any:
    """Declares a method as a timer: `@timer` (one shot: `self.NAME.start(after=0.5)`) or `@timer(period=0.001)`.

    Times are seconds. A periodic timer is called once for each period, even when the loop is late (up to a second).
    """
    if function is not None:
        return Timer(function, None)
    return lambda decorated: Timer(decorated, period)
