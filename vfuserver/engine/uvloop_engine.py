"""The default engine: devices on UNIX sockets, in one loop, in one process.

One device has one listening socket (or one inherited connection) and at most one client at a time. A newcomer on a
busy socket is refused with a logged reason; but first what the present client has sent is taken in, and if it has
closed, the newcomer is served: so an immediate reconnect is never refused. It must not know what a device is beyond
the `Backend` contract, nor the command line.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from vfuserver.engine.accepting import Accepting
from vfuserver.engine.listen import Listener, is_listening
from vfuserver.engine.unix_socket import UnixConnection
from vfuserver.session import SessionOptions
from vfuserver.vfio import Backend

LOOPS = ("uvloop", "asyncio")


class Served:
    """One device on its listener, and the client it has at the moment."""

    def __init__(
        self, backend: Backend, listener: Listener, options: SessionOptions, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._backend, self._options, self._loop = backend, options, loop
        self.listener = listener
        self._client: UnixConnection | None = None
        self._accepting: Accepting | None = None
        self.finished = loop.create_future()
        if is_listening(listener.socket):
            self._accepting = Accepting(loop, listener.socket, backend.name, self._newcomer)
        else:
            self._serve(listener.socket.dup())

    @property
    def name(self) -> str:
        """The device's."""
        return self._backend.name

    def dump(self) -> dict[str, Any]:
        """The device, where it is served, and its client, as plain data (S4.26)."""
        path = self.listener.path
        return {
            "name": self._backend.name,
            "socket": None if path is None else str(path),
            **self._backend.dump(),
            "connection": None if self._client is None else self._client.session.dump(),
        }

    def _newcomer(self, newcomer: socket.socket) -> None:
        if self._client is not None and not self._client.peer_is_gone():
            self._client.session.log.provoked(logging.WARNING, "a second client is refused: this one is connected")
            newcomer.close()
            return
        self._serve(newcomer)

    def _serve(self, sock: socket.socket) -> None:
        self._client = UnixConnection(self._backend, sock, self._options, self._loop, self._gone)

    def _gone(self, client: UnixConnection) -> None:
        if client is self._client:
            self._client = None
        if not is_listening(self.listener.socket) and not self.finished.done():
            self.finished.set_result(None)

    def close(self) -> None:
        """Disconnects the client, stops listening, closes the device."""
        if self._accepting is not None:
            self._accepting.close()
        if self._client is not None:
            self._client.close("the server stops")
        if not self.finished.done():
            self.finished.set_result(None)
        self.listener.close()
        self._backend.close()


class Server:
    """Serves devices until it is told to stop: `async with Server() as s: s.add(...); await s.stopped()`.

    On the way out every socket file is removed, every client disconnected and every backend closed.
    """

    def __init__(self, options: SessionOptions | None = None) -> None:
        self._options = options or SessionOptions()
        self._served: list[Served] = []
        self._stop = asyncio.Event()

    async def __aenter__(self) -> "Server":
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._served:
            self._served.pop().close()

    def add(self, backend: Backend, listener: Listener, options: SessionOptions | None = None) -> None:
        """Serves `backend` on `listener` from now on; the server owns both and closes them."""
        self._served.append(Served(backend, listener, options or self._options, asyncio.get_running_loop()))

    @property
    def served(self) -> tuple[Served, ...]:
        """Every device, in the order in which they were added."""
        return tuple(self._served)

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
