"""Accepting on a listening socket, driven by a loop, also when descriptors run out. It must not know who comes."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

log = logging.getLogger("vfuserver.engine")

PAUSE = 0.5
"""Seconds without accepting after the process ran out of descriptors or memory."""
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Accepting:
    """Calls `newcomer(socket)` for everybody who connects, until it is closed; the listening socket stays open."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, who: str, newcomer: Callable[[socket.socket], None]
    ) -> None:
        """`who` is for the log. What is passed on is the receiver's to close."""
        self._loop, self._socket, self._who, self._newcomer = loop, sock, who, newcomer
        self._retry: asyncio.TimerHandle | None = None
        loop.add_reader(sock.fileno(), self._accept)

    def pause(self) -> None:
        """Nobody is accepted until resume(): who connects waits."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._socket.fileno())

    def resume(self) -> None:
        """Goes on after pause()."""
        self._loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """Nobody is accepted any more. Before the socket is closed."""
        self.pause()

    def _accept(self) -> None:
        try:
            newcomer, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._cannot_accept(error)
            return
        self._newcomer(newcomer)

    def _cannot_accept(self, error: OSError) -> None:
        """Out of descriptors: the listener stays readable, so the loop would spin; it looks again a little later."""
        log.error("%s: cannot accept a client: %s", self._who, error.strerror)
        if error.errno in EXHAUSTED:
            fd = self._socket.fileno()
            self._loop.remove_reader(fd)
            self._retry = self._loop.call_later(PAUSE, self._loop.add_reader, fd, self._accept)
