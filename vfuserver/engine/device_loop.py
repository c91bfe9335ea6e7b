"""The loop of a thread that serves one device, or one card, and polls for its clients' next message.

Whoever polls has to know when the loop has something to do. Descriptors and other threads show in what the loop sleeps
on (`polling`); what the thread itself asks of its loop does not, so it is counted here. It must not know devices.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVarTuple

from vfuserver._core import want_loop

Ts = TypeVarTuple("Ts")


class Asked(asyncio.AbstractEventLoop):
    """Mixed into a loop's class: counts what is asked of the loop, and has a pump of this thread go back to it."""

    asked = 0
    """How often it was asked for something."""

    def call_idly(self, callback: Callable[[*Ts], object], *args: *Ts) -> None:
        """As call_soon(), for what is only done because there is nothing else: the loop is not asked for anything."""
        super().call_soon(callback, *args)

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As the loop's."""
        self._ask()
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As the loop's."""
        self._ask()
        return super().call_at(when, callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As the loop's."""
        self._ask()
        return super().call_later(delay, callback, *args, context=context)

    def add_reader(self, fd: Any, callback: Callable[[*Ts], Any], *args: *Ts) -> None:
        """As the loop's."""
        self._ask()
        return super().add_reader(fd, callback, *args)

    def add_writer(self, fd: Any, callback: Callable[[*Ts], Any], *args: *Ts) -> None:
        """As the loop's."""
        self._ask()
        return super().add_writer(fd, callback, *args)

    def _ask(self) -> None:
        self.asked += 1
        want_loop()


def loop_factory(like: asyncio.AbstractEventLoop) -> Callable[[], Asked]:
    """What makes a loop for another thread, of the same kind as this one."""
    if isinstance(like, asyncio.SelectorEventLoop):
        return _made_of(asyncio.SelectorEventLoop)
    import uvloop

    return _made_of(uvloop.Loop)


def _made_of(kind: type[asyncio.AbstractEventLoop]) -> Callable[[], Asked]:
    return type("DeviceLoop", (Asked, kind), {})
