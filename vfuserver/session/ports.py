"""What a session needs from whoever runs it: a clock and, if it has one, a way to watch a descriptor.

`loop.call_later` of asyncio and uvloop is a `Schedule` as it is; tests pass a manual one.
"""

from collections.abc import Callable
from typing import Protocol


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
