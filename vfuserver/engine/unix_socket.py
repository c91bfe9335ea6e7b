"""One accepted socket: the C pump (recvmsg -> Stream.feed -> sendmsg) driven by a loop's readiness callbacks.

Level-triggered: one recvmsg a callback, so a busy connection never starves another. It must not know commands or
devices. The socket is read only while the stream wants to be (bounded queues), and written to when it was full.
"""

import asyncio
import logging
import select
import socket
from collections.abc import Callable
from functools import partial

from vfuserver._core import Pump
from vfuserver.session import Session, SessionOptions
from vfuserver.vfio import Backend

log = logging.getLogger("vfuserver.engine")

_GONE = select.POLLHUP | select.POLLERR


class _Watch:
    """A descriptor that the loop watches for the session, until it is cancelled."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[[], None]) -> None:
        self._loop, self._fd = loop, fd
        loop.add_reader(fd, callback)

    def cancel(self) -> None:
        self._loop.remove_reader(self._fd)


class UnixConnection:
    """A client's connection to one device, from accept until it is closed. `on_closed` is called exactly once."""

    def __init__(
        self,
        backend: Backend,
        sock: socket.socket,
        options: SessionOptions,
        loop: asyncio.AbstractEventLoop,
        on_closed: Callable[["UnixConnection"], None],
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._loop = loop
        self._on_closed = on_closed
        self._reading = self._writing = self._ended = self._closed = False
        self.session = Session(
            backend, options, schedule=loop.call_later, on_output=self._send, watch=partial(_Watch, loop)
        )
        self._pump = Pump(self.session.stream, sock.fileno())
        self._apply(Pump.READ)

    def close(self, reason: str) -> None:
        """Ends the session (the device is detached, its client's memory unmapped) and closes the socket."""
        if self._closed:
            return
        self._closed = True
        self._apply(0)
        self.session.close(reason)
        self._socket.close()
        self._on_closed(self)

    def peer_is_gone(self) -> bool:
        """Takes in what the client has sent; True if it has closed its end (and then the connection is closed)."""
        poll = select.poll()
        poll.register(self._socket, _GONE)
        gone = bool(poll.poll(0))
        while not self._closed and gone and not self._ended and self.session.stream.wants_read:
            self._receive()
        if gone and not self._closed:
            self.close("the client has closed, and the next one waits")
        if not gone:
            self._receive()
        return self._closed

    def _receive(self) -> None:
        self._step(self._pump.run)

    def _send(self) -> None:
        if not self._closed:
            self._step(self._pump.flush)

    def _step(self, move: Callable[[], int]) -> None:
        """One turn of the pump. Our own bug in it costs this connection, and no other."""
        if self._closed:
            return
        try:
            flags = move()
        except Exception:
            log.exception("the connection is closed because of an error of our own")
            self.close("internal error")
            return
        if not self._closed:
            self._after(flags)

    def _after(self, flags: int) -> None:
        if flags & Pump.BROKEN:
            self.close(self.session.stream.broken or f"the socket failed: errno {self._pump.error}")
        elif flags & Pump.EOF and self._ended:
            self.close("the client has gone")
        elif flags & Pump.EOF or self._ended:
            self._ended = True
            self._finish()
        else:
            self._apply(flags)

    def _finish(self) -> None:
        """The client sends no more. What it had sent is served to the end, and what it may still read is sent."""
        stream = self.session.stream
        if stream.held:
            self._apply(0)
        elif stream.queued:
            self._apply(Pump.WRITE)
        else:
            self.close("the client has closed the connection")

    def _apply(self, flags: int) -> None:
        reading, writing = bool(flags & Pump.READ), bool(flags & Pump.WRITE)
        fd = self._socket.fileno()
        if reading != self._reading:
            if reading:
                self._loop.add_reader(fd, self._receive)
            else:
                self._loop.remove_reader(fd)
        if writing != self._writing:
            if writing:
                self._loop.add_writer(fd, self._send)
            else:
                self._loop.remove_writer(fd)
        self._reading, self._writing = reading, writing
