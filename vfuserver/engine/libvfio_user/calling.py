"""Calls in both directions: what Python gives C to call back, and calls that block, made beside the loop.

No exception crosses C: a callback that fails says so in the log, and its caller gets EIO or the CommandError's errno.
It must not know what is called.
"""

import asyncio
import errno
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from vfuserver.errors import CommandError, DmaError

PATIENCE: Final = 2.0
"""Seconds that `join` waits for a call which should have ended."""

Refuse = Callable[[str, BaseException], None]
"""refuse(what, error): tells the operator."""


def guarded(ffi: Any, signature: str, function: Callable[..., Any], what: str, refuse: Refuse) -> Any:
    """A C function pointer. `function` returns what C gets; after an exception that is -1 with errno set, or nothing.

    Whoever gives it to C keeps it alive.
    """

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except BaseException as error:  # C cannot carry it, whatever it is
            refuse(what, error)
            ffi.errno = errno_of(error)
            return failed

    failed = None if signature.startswith("void") else -1
    return ffi.callback(signature, call)


def errno_of(error: BaseException) -> int:
    """The errno that a client gets for an exception."""
    return error.errno if isinstance(error, CommandError | DmaError) and error.errno > 0 else errno.EIO


class Beside:
    """One call at a time that may block, in a thread of its own; its result comes back in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop, self._name = loop, name
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """True until the result of the last call has been delivered."""
        return self._thread is not None

    def start(self, call: Callable[[], int], done: Callable[[int], None]) -> None:
        """Makes the call; `done(result)` comes later, in the loop's thread."""
        thread = threading.Thread(target=partial(self._run, call, done), name=self._name, daemon=True)
        self._thread = thread
        thread.start()

    def join(self) -> bool:
        """Waits for the call, which the caller has cut short; False if it does not end. Nothing is delivered."""
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        thread.join(PATIENCE)
        return not thread.is_alive()

    def _run(self, call: Callable[[], int], done: Callable[[int], None]) -> None:
        result = call()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, threading.current_thread(), done, result)

    def _deliver(self, thread: threading.Thread, done: Callable[[int], None], result: int) -> None:
        if thread is not self._thread:
            return
        thread.join()
        self._thread = None
        done(result)
