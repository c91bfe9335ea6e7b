"""The one way to answer later.

A handler or a register hook that cannot answer at once returns a `Later`. The connection takes no further command
until it is completed; replies to our own DMA messages are still taken in, other connections go on. The session gives
it a deadline (4 s by default, below QEMU's 5 s): then ETIMEDOUT is answered, because a reply that comes after the
client's own time-out kills the connection. It must not know sessions, loops or devices.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

ANSWERING: ContextVar[bool] = ContextVar("vfuserver_answering", default=False)
"""True inside code whose completion a client's command waits for: message DMA must not be awaited there."""


class Later:
    """The answer to one command, not known yet. Complete it once, by `set_result` or `set_error`.

    `what` names the device and register (or command) for the log. A second completion is ignored: the deadline may
    have answered first. Not thread-safe: call from the loop's thread.
    """

    __slots__ = ("_callback", "_done", "_result", "on_cancel", "what")

    def __init__(self, what: str, on_cancel: Callable[[], None] | None = None) -> None:
        self.what = what
        self.on_cancel = on_cancel
        self._callback: Callable[[object], None] | None = None
        self._done = False
        self._result: object = None

    @property
    def done(self) -> bool:
        """True once it has been completed or cancelled."""
        return self._done

    def set_result(self, result: object = None) -> None:
        """Answers: an int or None for a register, bytes (or None) for a command."""
        if self._done:
            return
        self._done, self._result = True, result
        if self._callback is not None:
            self._callback(result)

    def set_error(self, error: BaseException) -> None:
        """Answers with an error reply: CommandError's errno, EIO for any other exception."""
        self.set_result(error)

    def cancel(self) -> None:
        """Nobody waits any more (deadline, disconnect): the work behind it is told to stop."""
        if self._done:
            return
        self._done = True
        if self.on_cancel is not None:
            self.on_cancel()

    def when_done(self, callback: Callable[[object], None]) -> None:
        """Calls `callback(result)` on completion, at once if that has happened. One callback; for the session."""
        if self._done:
            callback(self._result)
        else:
            self._callback = callback

    def map(self, change: Callable[[Any], object]) -> "Later":
        """This one, whose result is `change(result)` where it succeeds. Cancelling it cancels this one."""
        other = Later(self.what, on_cancel=self.cancel)
        self.when_done(lambda own: other.set_result(own if isinstance(own, BaseException) else change(own)))
        return other

    def then(self, more: Callable[[], "Later | None"]) -> "Later":
        """This one and what `more()` does after it, as one answer: None, or the first error, which ends it.

        Cancelling the whole stops what is under way; what was to follow does not happen.
        """
        whole = Later(self.what, on_cancel=self.cancel)

        def go_on(result: object) -> None:
            if isinstance(result, BaseException):
                whole.set_error(result)
                return
            try:
                following = more()
            except Exception as error:
                whole.set_error(error)
                return
            if following is None:
                whole.set_result(None)
            else:
                whole.on_cancel = following.cancel
                following.when_done(whole.set_result)

        self.when_done(go_on)
        return whole
