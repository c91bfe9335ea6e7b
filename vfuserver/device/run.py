"""One coroutine of a device in flight, driven by hand so that it can be held at its next await and ended at once.

The task that asyncio sees is ours; inside it the author's coroutine is stepped with send() and throw(). Before each
step the device's brake is asked: while the device is stopped nothing of the coroutine runs (S3.9), and what it was
waiting for is delivered when the device runs again. It must not know jobs, registers or devices.
"""

import asyncio
import logging
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar, copy_context
from typing import Any

from vfuserver._core import want_loop
from vfuserver.vfio import ANSWERING

log = logging.getLogger(__name__)

CURRENT_RUN: ContextVar["Run | None"] = ContextVar("vfuserver_current_run", default=None)
"""The run whose code is executing; DMA asks it whether its client is still the same."""


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Brake:
    """One device's brake: while it is on, runs wait before their next step. While it is only coming on (`gentle`),
    those that are inside a DMA transfer end that first; while registers work (`answers`), those that a client's access
    waits for go on (S3.10)."""

    def __init__(self) -> None:
        self.on = False
        self.gentle = False
        self.answers = False
        self._waiting: list[asyncio.Future[None]] = []

    def hold(self, *, gently: bool = False, answers: bool = False) -> None:
        """Runs stop at their next await."""
        self.on = True
        self.gentle = gently
        self.answers = answers

    def release(self) -> None:
        """Held runs go on."""
        self.on = False
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def passed(self) -> None:
        """Returns when the brake is off."""
        while self.on:
            await self.released()

    async def released(self) -> None:
        """Returns after the next release(), whatever came after that."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future


class Run:
    """One execution. `finished(run, result or exception)` is called once, unless end() came first.

    `answering`: a client's command waits for it, so message DMA must refuse (ANSWERING is set in its context).
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        brake: Brake,
        finished: Callable[["Run", object], None],
        *,
        what: str,
        answering: bool = False,
    ) -> None:
        self.what = what
        self._ended = False
        self.client_lost = False
        self.transfers = 0
        """DMA transfers of this run under way."""
        self._coroutine = coroutine
        self.brake = brake
        self._finished = finished
        self._answering = answering
        self._stepping = False
        self._task: asyncio.Task[None] | None = None

    def launch(self) -> None:
        """Starts it on the running loop; nothing happens where none runs, or when it was launched before."""
        loop = running_loop()
        if loop is None or self._task is not None or self.ended():
            return
        context = copy_context()
        context.run(ANSWERING.set, self._answering)
        context.run(CURRENT_RUN.set, self)
        self._task = loop.create_task(self._main(), name=self.what, context=context)
        want_loop()

    async def may_transfer(self) -> None:
        """Returns when it may begin DMA as far as the brake is concerned. What an access waits for is not held, but
        refused by the gate."""
        if not (self.brake.answers and self._answering):
            await self.brake.passed()

    def ended(self) -> bool:
        """True once it has finished or was ended."""
        return self._ended

    def end(self) -> None:
        """Ends it now: its `finally` blocks have run when this returns (or at its next await, if it called this)."""
        if self.ended():
            return
        self._ended = True
        if not self._stepping:
            self._close()
            if self._task is not None:
                self._task.cancel()

    async def _main(self) -> None:
        try:
            result = await self._steps()
        except asyncio.CancelledError:
            if not self.ended():
                raise
            return
        except Exception as error:
            result = error
        if not self.ended():
            self._ended = True
            self._finished(self, result)

    @types.coroutine
    def _steps(self) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        while True:
            while self._is_held() and not isinstance(error, asyncio.CancelledError | GeneratorExit):
                try:
                    yield from self.brake.released().__await__()
                except asyncio.CancelledError as cancelled:
                    error = cancelled
            if self.ended():
                return None
            try:
                waits_for = self._step(error)
            except StopIteration as stop:
                return stop.value
            if self.ended():
                self._close()
                return None
            error = None
            try:
                yield waits_for
            except BaseException as raised:
                error = raised

    def _is_held(self) -> bool:
        brake = self.brake
        return brake.on and not (brake.gentle and self.transfers) and not (brake.answers and self._answering)

    def _step(self, error: BaseException | None) -> Any:
        self._stepping = True
        try:
            return self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        finally:
            self._stepping = False

    def _close(self) -> None:
        try:
            self._coroutine.close()
        except Exception:
            log.exception("%s: its clean-up failed", self.what)
