"""The default engine: devices on UNIX sockets, in one loop, in one process.

One device has one listening socket (or one inherited connection) and at most one client at a time. A newcomer on a
busy socket is refused with a logged reason; but first what the present client has sent is taken in, and if it has
closed, the newcomer is served: so an immediate reconnect is never refused. It must not know what a device is beyond
the `Backend` contract, nor the command line.
"""

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from vfuserver.engine.listen import Listener, is_listening
from vfuserver.engine.unix_socket import UnixConnection
from vfuserver.session import SessionOptions
from vfuserver.vfio import Backend

log = logging.getLogger("vfuserver.engine")

LOOPS = ("uvloop", "asyncio")
_ACCEPT_PAUSE = 0.5
"""Seconds without accepting after the process ran out of descriptors or memory."""
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class _Served:
    """One device on its listener, and the client it has at the moment."""

    def __init__(
        self, backend: Backend, listener: Listener, options: SessionOptions, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._backend, self._listener, self._options, self._loop = backend, listener, options, loop
        self._client: UnixConnection | None = None
        self._retry: asyncio.TimerHandle | None = None
        self.finished = loop.create_future()
        if is_listening(listener.socket):
            loop.add_reader(listener.socket.fileno(), self._accept)
        else:
            self._serve(listener.socket.dup())

    def _accept(self) -> None:
        try:
            newcomer, _ = self._listener.socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._cannot_accept(error)
            return
        if self._client is not None and not self._client.peer_is_gone():
            self._client.session.log.provoked(logging.WARNING, "a second client is refused: this one is connected")
            newcomer.close()
            return
        self._serve(newcomer)

    def _cannot_accept(self, error: OSError) -> None:
        """Out of descriptors: the listener stays readable, so the loop would spin; it looks again a little later."""
        log.error("%s: cannot accept a client: %s", self._backend.name, error.strerror)
        if error.errno in _EXHAUSTED:
            fd = self._listener.socket.fileno()
            self._loop.remove_reader(fd)
            self._retry = self._loop.call_later(_ACCEPT_PAUSE, self._loop.add_reader, fd, self._accept)

    def _serve(self, sock: socket.socket) -> None:
        self._client = UnixConnection(self._backend, sock, self._options, self._loop, self._gone)

    def _gone(self, client: UnixConnection) -> None:
        if client is self._client:
            self._client = None
        if not is_listening(self._listener.socket) and not self.finished.done():
            self.finished.set_result(None)

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listener.socket.fileno())
        if self._client is not None:
            self._client.close("the server stops")
        if not self.finished.done():
            self.finished.set_result(None)
        self._listener.close()
        self._backend.close()


class Server:
    """Serves devices until it is told to stop: `async with Server() as s: s.add(...); await s.stopped()`.

    On the way out every socket file is removed, every client disconnected and every backend closed.
    """

    def __init__(self, options: SessionOptions | None = None) -> None:
        self._options = options or SessionOptions()
        self._served: list[_Served] = []
        self._stop = asyncio.Event()

    async def __aenter__(self) -> "Server":
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._served:
            self._served.pop().close()

    def add(self, backend: Backend, listener: Listener, options: SessionOptions | None = None) -> None:
        """Serves `backend` on `listener` from now on; the server owns both and closes them."""
        self._served.append(_Served(backend, listener, options or self._options, asyncio.get_running_loop()))

    def stop(self) -> None:
        """Makes `stopped` return. Safe in a signal handler of the loop."""
        self._stop.set()

    async def stopped(self) -> None:
        """Returns after `stop`, or once every inherited connection (`--fd`) has been closed by its client."""
        ends = [served.finished for served in self._served]
        stop = asyncio.ensure_future(self._stop.wait())
        everything = asyncio.ensure_future(asyncio.wait(ends)) if ends else stop
        await asyncio.wait({stop, everything}, return_when=asyncio.FIRST_COMPLETED)
        for task in (stop, everything):
            task.cancel()

    def stop_on(self, signals: Iterable[signal.Signals] = (signal.SIGTERM, signal.SIGINT)) -> None:
        """Stops at these signals; the process then ends normally."""
        loop = asyncio.get_running_loop()
        for number in signals:
            loop.add_signal_handler(number, self.stop)


def run_loop(main: Callable[[], Coroutine[Any, Any, Any]], loop: str = "uvloop") -> Any:
    """Runs `main()` to its end on a new loop of the named kind (`LOOPS`) and returns its result."""
    if loop == "uvloop":
        import uvloop

        factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    else:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())
