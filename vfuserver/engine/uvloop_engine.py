"""The default engine: devices on UNIX sockets, in one loop, in one process.

One device has one listening socket (or one inherited connection) and at most one client at a time. A newcomer on a
busy socket is refused with a logged reason; but first what the present client has sent is taken in, and if it has
closed, the newcomer is served: so an immediate reconnect is never refused. It must not know what a device is beyond
the `Backend` contract, nor the command line.
"""

import asyncio
import errno
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from vfuserver.engine.accepting import Accepting
from vfuserver.engine.listen import Listener, is_listening
from vfuserver.engine.unix_socket import UnixConnection
from vfuserver.errors import CommandError
from vfuserver.plain import Descriptor
from vfuserver.session import Keeper, SessionOptions
from vfuserver.vfio import Backend

_BETWEEN_LOOKS: Final = 0.002
"""Seconds until it is looked again whether a device can stand still."""

LOOPS = ("uvloop", "asyncio")


class Served:
    """One device on its listener, and the client it has at the moment."""

    def __init__(
        self,
        backend: Backend,
        listener: Listener,
        options: SessionOptions,
        loop: asyncio.AbstractEventLoop,
        keeper: Keeper | None = None,
    ) -> None:
        """With a `keeper` the device and its connection outlive the process."""
        self._backend, self._options, self._loop, self._keeper = backend, options, loop, keeper
        self.listener = listener
        self._client: UnixConnection | None = None
        self._accepting: Accepting | None = None
        self._busy = ""  # what keeps it from standing still
        self._still_since = 0.0
        self.finished = loop.create_future()

    def begin(self) -> None:
        """From now on the device is served."""
        if is_listening(self.listener.socket):
            self._accepting = Accepting(self._loop, self.listener.socket, self._backend.name, self._newcomer)
        else:
            self._serve(self.listener.socket.dup())

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
        self._client = UnixConnection(self._backend, sock, self._options, self._loop, self._gone, keeper=self._keeper)
        self._keep()

    def _gone(self, client: UnixConnection) -> None:
        if client is self._client:
            self._client = None
        if not is_listening(self.listener.socket) and not self.finished.done():
            self.finished.set_result(None)
        self._keep()

    def _keep(self) -> None:
        if self._keeper is not None:
            self._keeper.keep()

    # -- from process to process

    async def pause(self, patience: float) -> float:
        """Stands still: nobody is accepted, nothing is received or sent, the device does nothing.

        What is under way (a held command, DMA) may take `patience` seconds, in which the device is served as ever.
        Since when it does (time.monotonic()). CommandError: it cannot be handed over now (EBUSY), or ever (ENOTSUP); it
        goes on.
        """
        if self._accepting is not None:
            self._accepting.pause()
        self._busy = self.name
        try:
            async with asyncio.timeout(patience):
                while not await self._stands_still():
                    await asyncio.sleep(_BETWEEN_LOOKS)
                return self._still_since
        except TimeoutError:
            self.resume()
            text = f"{self.name} cannot be handed over now: {self._busy} is not done after {patience:g} s"
            raise CommandError(errno.EBUSY, text) from None
        except BaseException:
            self.resume()
            raise

    def resume(self) -> None:
        """Goes on after pause(), or after it was taken over."""
        if self._accepting is not None:
            self._accepting.resume()
        self._backend.resume()
        self._resume_client()

    def kept(self) -> dict[str, Any]:
        """As carry(), at this moment, and it goes on: what waits in the streams lies in their ledgers.

        CommandError(EBUSY): not while an access waits for its answer."""
        self._backend.pause(at_once=True)
        try:
            return self.carry(streams=False)
        finally:
            self._backend.resume()

    def carry(self, *, streams: bool = True) -> dict[str, Any]:
        """Everything of the paused device and its connection, for another process (plain data, descriptors lent)."""
        return {
            "name": self.name,
            "device": self._backend.hand_over(),
            "path": None if self.listener.path is None else str(self.listener.path),
            "listener": Descriptor(self.listener.socket.fileno()),
            "client": None if self._client is None else self._client.carry(streams=streams),
        }

    def adopt(self, carried: Mapping[str, Any]) -> None:
        """Becomes what carry() told of, paused: a device that was just made. CommandError, OSError, PeerError: not."""
        self._backend.take_over(carried["device"])
        client = carried["client"]
        if client is not None:
            sock = socket.socket(fileno=os.dup(client["sockets"][0].fd))
            try:
                self._client = UnixConnection(
                    self._backend, sock, self._options, self._loop, self._gone, client, self._keeper
                )
            except BaseException:
                sock.close()
                raise
        if is_listening(self.listener.socket):
            self._accepting = Accepting(self._loop, self.listener.socket, self._backend.name, self._newcomer)
            self._accepting.pause()

    def again(self, noted: Sequence[Any]) -> None:
        """Does what the process that was killed had noted after it had told the rest, except the message in hand."""
        client = self._client
        for number, message_id, payload, fds in noted:
            if client is not None and (number, message_id) != client.in_hand:
                client.session.again(number, payload, [one.fd for one in fds])
        if client is not None:
            client.session.connection.doubt_log()

    def leave(self) -> None:
        """Another process goes on with it: gives back what is ours, and neither client nor log are told."""
        if self._accepting is not None:
            self._accepting.close()
        self._backend.close()
        if self._client is not None:
            self._client.leave()
        self.listener.leave()

    async def _stands_still(self) -> bool:
        """True: nothing is under way, and device and connection are paused. False: look again, all goes on."""
        client = self._client
        if client is not None and client.session.held is not None:
            self._busy = client.session.held
            return False
        self._pause_client()
        try:
            await self._device_paused()
        except CommandError as error:
            if error.errno != errno.EBUSY:
                raise
            self._busy = error.message
        else:
            client = self._client
            if client is None or client.session.held is None:
                return True
            self._busy = client.session.held
            self._backend.resume()
        self._resume_client()
        return False

    async def _device_paused(self) -> None:
        """Has the device stop. While its DMA ends the client is served; at the end it is not any more."""
        later = self._backend.pause()
        if later is None:
            return
        self._busy = later.what
        self._resume_client()
        ended: asyncio.Future[object] = self._loop.create_future()

        def stopped(result: object) -> None:
            self._pause_client()
            if not ended.done():
                ended.set_result(result)

        later.when_done(stopped)
        try:
            result = await ended
        except BaseException:
            later.cancel()
            raise
        if isinstance(result, BaseException):
            raise result

    def _pause_client(self) -> None:
        self._still_since = time.monotonic()
        if self._client is not None:
            self._client.pause()

    def _resume_client(self) -> None:
        if self._client is not None:
            self._client.resume()

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


class Safe(Protocol):
    """Another process that keeps what this one serves."""

    def keeper(self, number: int) -> Keeper:
        """For the device of this number, in the order in which they are added."""

    def begin(self) -> None:
        """This process is about to serve."""

    def tell_companions(self) -> None:
        """The server's companions have come."""

    def leave(self) -> None:
        """Nothing is told any more. Idempotent."""


class Companion(Protocol):
    """What belongs to a server, and goes with it to another process."""

    def carry(self) -> Any:
        """What it is: plain data, descriptors lent."""

    def leave(self) -> None:
        """Another process has it now."""


class Server:
    """Serves devices until it is told to stop: `async with Server() as s: s.add(...); await s.stopped()`.

    On the way out every socket file is removed, every client disconnected and every backend closed.
    """

    def __init__(self, options: SessionOptions | None = None, command: Sequence[str] | None = None) -> None:
        """`command` starts a process that can take over (vfuserver.control.succession); None: none does."""
        self._options = options or SessionOptions()
        self.command = command
        self.safe: Safe | None = None
        """Keeps everything in another process, from before the first device is added. None: nobody does."""
        self.companions: dict[str, Companion] = {}
        """What else of the process goes over to another one, by name."""
        self.handing_over = self.still = False
        """Whether another process is about to take over, and whether everything stands still for that."""
        self.left = False
        """True once another process has taken over."""
        self._served: list[Served] = []
        self._devices: list[Backend] = []
        self._stop = asyncio.Event()

    async def __aenter__(self) -> "Server":
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._served:
            self._served.pop().close()
            self._devices.pop()

    def add(self, backend: Backend, listener: Listener, options: SessionOptions | None = None) -> None:
        """Serves `backend` on `listener` from now on; the server owns both and closes them."""
        self._made(backend, listener, options).begin()

    def adopt(
        self, backend: Backend, listener: Listener, carried: Mapping[str, Any], options: SessionOptions | None = None
    ) -> None:
        """Takes over what another process's Served has carried, paused, for `backend`, which was just made; resume()
        lets it go on. The server owns both, also where it fails: CommandError, OSError, PeerError."""
        self._made(backend, listener, options).adopt(carried)

    def _made(self, backend: Backend, listener: Listener, options: SessionOptions | None) -> Served:
        keeper = None if self.safe is None else self.safe.keeper(len(self._served))
        served = Served(backend, listener, options or self._options, asyncio.get_running_loop(), keeper)
        self._devices.append(backend)
        backend.beside = self._devices
        self._served.append(served)
        return served

    # -- from process to process

    async def pause(self, patience: float) -> float:
        """Everything stands still; since when the first device does (time.monotonic()).

        CommandError: one cannot, within so many seconds or ever; all go on."""
        self.still = True
        pausing = [asyncio.ensure_future(served.pause(patience)) for served in self._served]
        try:
            return min([await one for one in pausing], default=time.monotonic())
        except BaseException:
            for one in pausing:
                one.cancel()
            await asyncio.gather(*pausing, return_exceptions=True)
            self.resume()
            raise

    def resume(self) -> None:
        """Everything goes on: after pause(), or after it was taken over."""
        self.still = False
        for served in self._served:
            served.resume()

    def carry(self) -> dict[str, Any]:
        """Everything of the paused server, for another process (plain data, descriptors lent)."""
        companions = {name: one.carry() for name, one in self.companions.items()}
        return {"served": [served.carry() for served in self._served], "companions": companions}

    def leave(self) -> None:
        """Another process serves from now on: gives back what is ours. Nothing is removed, and no client is told.

        Whoever has asked for it calls stop() in the end."""
        self.left = True
        for companion in self.companions.values():
            companion.leave()
        while self._served:
            self._served.pop().leave()
            self._devices.pop()

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
