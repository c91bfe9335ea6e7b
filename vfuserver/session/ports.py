"""What a session needs from whoever runs it: a clock and, if it has them, a way to watch a descriptor and to open a
second socket.

`loop.call_later` of asyncio and uvloop is a `Schedule` as it is; tests pass a manual one.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from vfuserver._core import Stream


class Cancellable(Protocol):
    """Something that will call back unless it is cancelled."""

    def cancel(self) -> None:
        """It does not call back any more. Idempotent."""


Output = tuple[bytes, tuple[int, ...]]
"""One sendmsg: bytes, and the descriptors that go with its first byte (the receiver of this value closes them)."""

Schedule = Callable[[float, Callable[[], None]], Cancellable]
"""schedule(seconds, callback): calls back once, in the session's thread."""

Watch = Callable[[int, Callable[[], None]], Cancellable]
"""watch(fd, callback): calls back, in the session's thread, whenever `fd` is readable."""


class Keeper(Protocol):
    """Keeps in another process what somebody must know to go on with a connection when this process is killed."""

    def note(self, number: int, message_id: int, payload: bytes, fds: Sequence[int]) -> None:
        """A command that changes the connection, before it is done; descriptors stay the caller's."""

    def keep(self) -> None:
        """Everything as it is now, before what led to it is answered."""


OpenLane = Callable[[Stream], tuple[int, Callable[[], None]]]
"""open(stream) -> (peer, flush): a socket pair, with `stream` served on one end until the session is closed.

`peer` is the other end's descriptor. It stays the opener's, who closes it after the present feed has ended (the client
has its own by then, and the end of that one must be seen). `flush()` says that something was queued; it sends later, so
it may be called from anywhere. OSError: there is no socket to be had.
"""
