"""A thread of its own for one device, or for all functions of one card: a loop, and nothing else of the process.

Whatever a device is asked is asked there, so that it never runs on two threads; whoever stands on another thread calls
it through here. A thread waits for the answers of another one only downwards: the server's for those of its devices,
never the other way round, so two never wait for each other. It must not know what a device is.
"""

from __future__ import annotations

import _thread
import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from vfuserver.engine.device_loop import Asked, loop_factory
from vfuserver.engine.listen import Listener
from vfuserver.errors import LocalError
from vfuserver.vfio import Backend

if TYPE_CHECKING:
    from vfuserver.engine.apart import Apart
    from vfuserver.session import Keeper, SessionOptions

log = logging.getLogger("vfuserver.engine")

PATIENCE: Final = 5.0
"""Seconds that whoever asks waits: nothing that is asked takes long, unless a model's own code does not return."""

P = ParamSpec("P")
T = TypeVar("T")


class DeviceThread:
    """Runs from the beginning until end(), or until the last of those that use it has gone."""

    def __init__(self, name: str, like: asyncio.AbstractEventLoop) -> None:
        """`name` is what messages and debuggers call it; its loop is of the kind of `like`, which is the server's."""
        self.name = name
        self.loop: Asked
        self._factory = loop_factory(like)
        self._ending = False
        self._users = 0
        begun: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, args=(begun,), name=name, daemon=True)
        self._thread.start()
        begun.result()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls it there and waits for what it returns or raises. LocalError: the thread does not answer."""
        return self._call(PATIENCE, lambda: function(*args, **kwargs))

    def call_patiently(self, function: Callable[[], T]) -> T:
        """As call(), however long it takes: nothing is served there yet."""
        return self._call(None, function)

    def serve(
        self,
        backend: Backend,
        listener: Listener,
        options: SessionOptions,
        loop: asyncio.AbstractEventLoop,
        keeper: Keeper | None = None,
    ) -> Apart:
        """Serves it here from begin() on; as a `Serve` of the server, whose loop it is."""
        from vfuserver.engine.apart import Apart

        return Apart(self, backend, listener, options, loop, keeper)

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Awaits it there. Cancelled, so is the coroutine."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def enter(self) -> None:
        """One more uses it."""
        self._users += 1

    def leave(self) -> None:
        """One does not use it any more; the last one ends it."""
        self._users -= 1
        if self._users == 0:
            self.end()

    def end(self) -> None:
        """What still runs on its loop is cancelled, and the loop closed. Idempotent."""
        self._ending = True
        if self._thread.is_alive():
            with suppress(RuntimeError):  # closed this moment
                self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(PATIENCE)
        if self._thread.is_alive():
            log.error("%s: the device's code has not returned for %g s, and is left alone", self.name, PATIENCE)

    # -- inside

    def _call(self, patience: float | None, function: Callable[[], T]) -> T:
        if threading.current_thread() is self._thread or not self._thread.is_alive():
            return function()
        answer: Future[T] = Future()
        self.loop.call_soon_threadsafe(_answer, answer, function)
        try:
            return answer.result(patience)
        except (TimeoutError, CancelledError):
            if answer.done() and not answer.cancelled():
                raise  # its own
            answer.cancel()
            text = f"{self.name} has not answered for {patience:g} s: one of the device's hooks or jobs does not return"
            raise LocalError(text) from None

    def _main(self, begun: Future[None]) -> None:
        try:
            loop = self.loop = self._factory()
        except BaseException as error:  # no descriptors, for example: whoever began it is told
            begun.set_exception(error)
            return
        with asyncio.Runner(loop_factory=lambda: loop):
            begun.set_result(None)
            while not self._ending:
                try:
                    loop.run_forever()
                except BaseException:  # SystemExit or KeyboardInterrupt of a model's code: the server's to obey
                    log.critical("%s: the device's code ends the server", self.name, exc_info=True)
                    _thread.interrupt_main(signal.SIGTERM)


def _answer(answer: Future[T], function: Callable[[], T]) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except BaseException as error:
        answer.set_exception(error)
    else:
        answer.set_result(result)
