"""A device that is served on a thread of its own, seen from the server's: whatever it is asked is asked there.

`served` does the work there, as it does on the server's own loop. It must not know what a device is.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from vfuserver.engine.device_thread import DeviceThread
from vfuserver.engine.listen import Listener
from vfuserver.engine.served import Served
from vfuserver.errors import CommandError, LocalError
from vfuserver.session import Keeper, SessionOptions
from vfuserver.vfio import Backend

log = logging.getLogger("vfuserver.engine")

LOOK: Final = 1.0
"""Seconds that `inspect` waits for a device's thread; the server does not."""


class Apart:
    """A `Serving` whose device, listener and clients live on a thread, which goes with the last one that is there."""

    def __init__(
        self,
        thread: DeviceThread,
        backend: Backend,
        listener: Listener,
        options: SessionOptions,
        loop: asyncio.AbstractEventLoop,
        keeper: Keeper | None = None,
    ) -> None:
        """`loop` is the server's. A keeper would have to hear from two threads: it hears that it cannot, by kept()."""
        self.listener = listener
        self.name = backend.name
        self.finished: asyncio.Future[None] = loop.create_future()
        self._thread, self._loop = thread, loop
        self._inner = thread.call(Served, backend, listener, options, thread.loop)
        backend.served_on = thread.loop
        thread.call(self._inner.finished.add_done_callback, self._has_finished)
        thread.enter()

    def begin(self) -> None:
        """From now on the device is served."""
        self._thread.call(self._inner.begin)

    async def dump(self) -> dict[str, Any]:
        """As its thread sees it. LocalError: a hook or a job keeps that busy."""
        try:
            async with asyncio.timeout(LOOK):
                return await self._thread.run(self._look())
        except TimeoutError:
            raise LocalError(
                f"{self._thread.name} has not answered for {LOOK:g} s: the device's code is busy"
            ) from None

    def close(self) -> None:
        """Disconnects the client, stops listening, closes the device; its thread ends if it was the last one there."""
        try:
            self._thread.call(self._inner.close)
        except LocalError as error:
            log.error("%s is not closed: %s", self.name, error)
        finally:
            self._finish()
            self._thread.leave()

    # -- from process to process

    async def pause(self, patience: float) -> float:
        """Stands still, as Served."""
        return await self._thread.run(self._inner.pause(patience))

    def resume(self) -> None:
        """Goes on after pause(), or after it was taken over."""
        self._thread.call(self._inner.resume)

    def kept(self) -> dict[str, Any]:
        """Never: what is noted and what is kept must be told in one order, and the server's thread tells it."""
        text = f"{self.name} has a thread of its own, and what is kept is told by the server's: use --poll auto"
        raise CommandError(errno.ENOTSUP, text)

    def carry(self) -> dict[str, Any]:
        """Everything of the paused device and its connection, for another process (plain data, descriptors lent)."""
        return self._thread.call(self._inner.carry)

    def adopt(self, carried: Mapping[str, Any]) -> None:
        """Becomes what carry() told of, paused: a device that was just made. CommandError, OSError, PeerError: not."""
        self._thread.call_patiently(partial(self._inner.adopt, carried))

    def again(self, noted: Sequence[Any]) -> None:
        """As Served."""
        self._thread.call(self._inner.again, noted)

    def leave(self) -> None:
        """Another process goes on with it: gives back what is ours, and neither client nor log are told."""
        try:
            self._thread.call(self._inner.leave)
        finally:
            self._thread.leave()

    # -- on the device's thread

    async def _look(self) -> dict[str, Any]:
        thread = {"name": self._thread.name, "cpu_seconds": round(time.thread_time(), 3)}
        return {**await self._inner.dump(), "thread": thread}

    def _has_finished(self, _: object) -> None:
        with suppress(RuntimeError):  # the server's loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)
