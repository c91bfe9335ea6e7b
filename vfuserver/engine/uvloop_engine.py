"""The default engine: devices on UNIX sockets, in one loop, in one process.

One device has one listening socket (or one inherited connection), which `served` looks after. All of it can be carried
to another process. It must not know what a device is beyond the `Backend` contract, nor the command line.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Protocol

from vfuserver.engine.listen import Listener
from vfuserver.engine.served import Served
from vfuserver.engine.serving import Serve, Serving
from vfuserver.session import Keeper, SessionOptions
from vfuserver.vfio import Backend

LOOPS = ("uvloop", "asyncio")


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
        self._served: list[Serving] = []
        self._devices: list[Backend] = []
        self._stop = asyncio.Event()

    async def __aenter__(self) -> "Server":
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._served:
            self._served.pop().close()
            self._devices.pop()

    def add(
        self, backend: Backend, listener: Listener, options: SessionOptions | None = None, serve: Serve = Served
    ) -> None:
        """Serves `backend` on `listener` from now on; the server owns both and closes them. `serve`: an engine's,
        or a DeviceThread's for a device that was made there."""
        self._made(backend, listener, options, serve).begin()

    def adopt(
        self,
        backend: Backend,
        listener: Listener,
        carried: Mapping[str, Any],
        options: SessionOptions | None = None,
        serve: Serve = Served,
    ) -> None:
        """Takes over what another process's Served has carried, paused, for `backend`, which was just made; resume()
        lets it go on. The server owns both, also where it fails: CommandError, OSError, PeerError."""
        self._made(backend, listener, options, serve).adopt(carried)

    def _made(self, backend: Backend, listener: Listener, options: SessionOptions | None, serve: Serve) -> Serving:
        keeper = None if self.safe is None else self.safe.keeper(len(self._served))
        backend.served_on = asyncio.get_running_loop()
        served = serve(backend, listener, options or self._options, backend.served_on, keeper)
        backend.beside = self._devices
        self._devices.append(backend)
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
    def served(self) -> tuple[Serving, ...]:
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
