"""The `unmask` eventfds of level interrupts: KVM signals them when the guest has served one (`irqs` says more).

It must not know interrupts beyond their numbers, nor own an eventfd.
"""

import select
from collections.abc import Callable

from vfuserver.session.ports import Cancellable, Watch


class Resample:
    """Sees signals on `unmask` eventfds without consuming them: each write is one edge of an EPOLLET epoll."""

    def __init__(self, watch: Watch, unmasked: Callable[[int, int], None]) -> None:
        """`unmasked(index, vector)` is called for each signal."""
        self._watch = watch
        self._unmasked = unmasked
        self._epoll: select.epoll | None = None
        self._watching: Cancellable | None = None
        self._owner: dict[int, tuple[int, int]] = {}

    def add(self, fd: int, index: int, vector: int) -> None:
        """A vector's eventfd, which stays the caller's."""
        if self._epoll is None:
            self._epoll = select.epoll()
            self._watching = self._watch(self._epoll.fileno(), self._look)
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        self._owner[fd] = (index, vector)

    def remove(self, fd: int) -> None:
        """Before it is closed. Idempotent."""
        if self._epoll and self._owner.pop(fd, None):
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Nothing is watched any more. Idempotent."""
        if self._watching:
            self._watching.cancel()
        if self._epoll:
            self._epoll.close()
        self._watching = self._epoll = None

    def _look(self) -> None:
        events = self._epoll.poll(0) if self._epoll else []
        for fd, _ in events:
            if fd in self._owner:
                self._unmasked(*self._owner[fd])
