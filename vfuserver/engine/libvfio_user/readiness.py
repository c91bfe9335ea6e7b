"""Waiting for a socket that must stay blocking: the library writes its replies to it, and takes a short write for the
end of the connection.

uvloop makes every descriptor that it watches non-blocking, so it watches an epoll that watches the socket. It must not
know what comes over it.
"""

import asyncio
import select
from collections.abc import Callable


class HangUp:
    """Calls back once when the other end of a socket has closed, unless it is closed before. Owns its epoll alone."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, ended: Callable[[], None]) -> None:
        self._loop, self._ended = loop, ended
        self._epoll = select.epoll()
        self._epoll.register(fd, 0)  # EPOLLHUP is always told
        loop.add_reader(self._epoll.fileno(), self._tell)

    def close(self) -> None:
        """Before the socket is closed. Idempotent."""
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _tell(self) -> None:
        self.close()
        self._ended()


class Readiness:
    """Calls back when a socket is readable, or writable, until it is closed. Owns its epoll, not the socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, ready: Callable[[], None]) -> None:
        self._loop, self._fd, self._ready = loop, fd, ready
        self._epoll = select.epoll()
        self._epoll.register(fd, 0)
        self._events = 0

    def watch(self, *, reading: bool = False, writing: bool = False) -> None:
        """Waits for either, or for nothing."""
        events = select.EPOLLIN * reading | select.EPOLLOUT * writing
        if events == self._events:
            return
        self._epoll.modify(self._fd, events)
        if not events:
            self._loop.remove_reader(self._epoll.fileno())
        elif not self._events:
            self._loop.add_reader(self._epoll.fileno(), self._ready)
        self._events = events

    def close(self) -> None:
        """Before the socket is closed. Idempotent."""
        if not self._epoll.closed:
            self.watch()
            self._epoll.close()
