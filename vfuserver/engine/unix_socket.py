"""One accepted socket, the twin socket that may come with it, and the session behind them.

It must not know commands or devices. The sockets are moved by lanes; here is what their ends mean: a connection lives
as long as both of its sockets, and what the client had sent before one ended is served.
"""

import asyncio
import select
import socket
import struct
from collections.abc import Callable
from functools import partial

from vfuserver._core import Pump, Stream
from vfuserver.engine.lane import Lane
from vfuserver.session import Session, SessionOptions
from vfuserver.vfio import Backend

_GONE = select.POLLHUP | select.POLLERR


class _Watch:
    """A descriptor that the loop watches for the session, until it is cancelled."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[[], None]) -> None:
        self._loop, self._fd = loop, fd
        loop.add_reader(fd, callback)

    def cancel(self) -> None:
        self._loop.remove_reader(self._fd)


def _peer_pid(sock: socket.socket) -> int | None:
    """The process that connected; None if it is in another pid namespace."""
    pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid or None


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
        self._loop = loop
        self._on_closed = on_closed
        self._ended: str | None = None  # why the client sends no more commands
        self._closed = False
        self._twin: Lane | None = None
        self._twin_ended = False
        self.session = Session(
            backend,
            options,
            schedule=loop.call_later,
            on_output=self._send,
            watch=partial(_Watch, loop),
            open_lane=self._open_twin,
            peer_pid=_peer_pid(sock),
        )
        self._main = Lane(loop, sock, self.session.stream, self._after_main, self._failed)
        self._main.watch(Pump.READ)

    def close(self, reason: str) -> None:
        """Ends the session (the device is detached, its client's memory unmapped) and closes the sockets."""
        if self._closed:
            return
        self._closed = True
        lanes = [lane for lane in (self._main, self._twin) if lane is not None]
        for lane in lanes:
            lane.stop()
        self.session.close(reason)
        for lane in lanes:
            lane.close()
        self._on_closed(self)

    def peer_is_gone(self) -> bool:
        """Takes in what the client has sent; True if it has closed its end (and then the connection is closed)."""
        gone = self._main_is(_GONE)
        while not self._closed and gone and not self._ended and self.session.stream.wants_read:
            self._main.receive()
        if gone and not self._closed:
            self.close("the client has closed, and the next one waits")
        if not gone:
            self._main.receive()
        return self._closed

    def _send(self) -> None:
        self._main.send()

    def _failed(self) -> None:
        self.close("internal error")

    def _after_main(self, flags: int) -> None:
        if flags & Pump.BROKEN:
            self.close(self._main.why_broken())
        elif flags & Pump.EOF and self._ended:
            self.close("the client has gone")
        elif flags & Pump.EOF or self._ended:
            self._finish("the client has closed the connection")
        elif self._twin_ended and not self._main_is(select.POLLIN):
            self._finish("the client has closed the twin socket")
        else:
            self._main.watch(flags)

    def _finish(self, reason: str) -> None:
        """The client sends no more. What it had sent is served to the end, and what it may still read is sent."""
        self._ended = self._ended or reason
        stream = self.session.stream
        if stream.held:
            self._main.watch(0)
        elif stream.queued:
            self._main.watch(Pump.WRITE)
        else:
            self.close(self._ended)

    def _main_is(self, events: int) -> bool:
        """Whether one of these poll events holds for the main socket now."""
        poll = select.poll()
        poll.register(self._main.socket, events)
        return any(found & events for _, found in poll.poll(0))

    # -- the twin socket

    def _open_twin(self, stream: Stream) -> tuple[int, Callable[[], None]]:
        ours, theirs = socket.socketpair()
        self._twin = Lane(self._loop, ours, stream, self._after_twin, self._failed)
        self._twin.watch(Pump.READ)
        self._loop.call_soon(theirs.close)  # the reply has a copy by then
        return theirs.fileno(), self._twin.send_soon

    def _after_twin(self, flags: int) -> None:
        twin = self._twin
        if twin is None:
            return
        if flags & Pump.BROKEN:
            self.close(f"the twin socket: {twin.why_broken()}")
        elif flags & Pump.EOF:
            twin.stop()
            self._twin_ended = True
            self._main.send()  # ends the connection once the main socket has nothing more to serve
        else:
            twin.watch(flags)
