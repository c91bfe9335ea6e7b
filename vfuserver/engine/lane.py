"""One socket and the C pump (recvmsg -> Stream.feed -> sendmsg) over it, driven by a loop's readiness callbacks.

Level-triggered: one recvmsg a callback, so a busy connection never starves another. The socket is read only while the
stream wants to be (bounded queues), and written to when it was full. It must not know sessions: what an end of the
socket or a broken stream means is the owner's to say.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, Final

from vfuserver._core import Pump, Stream, want_loop
from vfuserver.engine.device_loop import Asked
from vfuserver.engine.polling import NONE, libuv, loop_fd
from vfuserver.errors import LocalError

_READ: Final = Pump.READ
_LARGE: Final = Pump.LARGE
_REST_AFTER: Final = 1.0
"""Seconds without a message after which buffers for large ones are given back."""
log = logging.getLogger("vfuserver.engine")


class Lane:
    """A socket (owned) that moves a stream's bytes, until it is closed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        stream: Stream,
        after: Callable[[int], None],
        failed: Callable[[], None],
        poll_us: int = 0,
        stays: bool = False,
    ) -> None:
        """`after(flags)` is told what a turn of the pump has come to (Pump.READ...) unless that is what is waited for
        already (see `tell_all`), `failed()` of an error of our own in one.

        A turn lasts up to `poll_us` microseconds while it pays to poll for the next message, 0: it never does. Where it
        does not pay, the pump sleeps in the loop's place (native/core/doze.h). One that `stays` polls always: its
        loop (an Asked one) has it as what it does when there is nothing else.
        """
        sock.setblocking(False)
        self.socket = sock
        self.stream = stream
        self._loop = loop
        self._after, self._failed = after, failed
        self._pump = Pump(stream, sock.fileno())
        self._run = self._pump.run
        loop_descriptor = loop_fd(loop)
        self._stays = loop if stays and isinstance(loop, Asked) and loop_descriptor != NONE else None
        self._staying, self._asked = False, 0
        if poll_us and loop_descriptor != NONE:
            self._pump.poll(poll_us, loop_descriptor, self._stays is not None)
            self._doze()
        self._tell_all = False
        self._resting: asyncio.TimerHandle | None = None
        self._reading = self._writing = self._soon = self._stopped = self._paused = False

    def receive(self) -> None:
        """One recvmsg, and the replies."""
        self._step(self._run)

    def send(self) -> None:
        """What is queued."""
        self._step(self._pump.flush)

    def send_soon(self) -> None:
        """Sends in the next turn of the loop: legal where something of this or another lane is being served."""
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._send_now)

    def why_broken(self) -> str:
        """What Pump.BROKEN meant."""
        return self.stream.broken or f"the socket failed: errno {self._pump.error}"

    @property
    def polling(self) -> dict[str, Any]:
        """What polling does, and costs: Pump.polling."""
        return self._pump.polling

    @property
    def tell_all(self) -> bool:
        """Whether `after` is told of every turn."""
        return self._tell_all

    @tell_all.setter
    def tell_all(self, all_of_them: bool) -> None:
        self._tell_all = all_of_them
        self._settle()

    def watch(self, flags: int) -> None:
        """Waits for what the pump wants: Pump.READ, Pump.WRITE, both or neither."""
        reading, writing = bool(flags & Pump.READ), bool(flags & Pump.WRITE)
        fd = self.socket.fileno()
        if reading != self._reading:
            if reading:
                # a lane that stays gives way to another one by that
                self._loop.add_reader(fd, self._pump.step, self.receive, self._told)
                self._stay_soon()
            else:
                self._loop.remove_reader(fd)
        if writing != self._writing:
            if writing:
                self._loop.add_writer(fd, self.send)
            else:
                self._loop.remove_writer(fd)
        self._reading, self._writing = reading, writing
        self._settle()

    def pause(self) -> None:
        """Nothing is received or sent until resume()."""
        self._paused = True
        self.watch(0)
        want_loop()

    def resume(self) -> None:
        """Goes on after pause(), with what waits in the stream."""
        self._paused = False
        if not self._stopped:
            self.stream.serve()
            self._loop.call_soon(self._wake)

    def stop(self) -> None:
        """Nothing is received, sent or told any more; the socket stays open. Idempotent."""
        if not self._stopped:
            self._stopped = True
            self.watch(0)
            want_loop()
            if self._resting is not None:
                self._resting.cancel()

    def close(self) -> None:
        """Stops, and closes the socket. Idempotent."""
        self.stop()
        self.socket.close()

    def _doze(self) -> None:
        """Sleeps in an uvloop's place from now on, where that is possible."""
        of_loop = libuv(self._loop)
        if of_loop is None or self._stays is not None:
            return
        try:
            self._pump.doze(*of_loop)
        except LocalError as error:
            log.debug("the loop is never slept for: %s", error)

    def _wake(self) -> None:
        """A turn of the pump for what waits there, which says what to wait for."""
        if not self._paused and not self._stopped:
            self.watch(Pump.READ)
            self.send()

    def _stay_soon(self) -> None:
        if self._stays is not None and not self._staying:
            self._staying = True
            self._asked = self._stays.asked
            self._stays.call_idly(self._stay, self._stays)

    def _stay(self, loop: Asked) -> None:
        """Polls until the loop has something to do; what it was asked for after this goes first."""
        self._staying = False
        if self._reading:
            self._step(self._pump.stay if loop.asked == self._asked else self._run)
        if self._reading:
            self._stay_soon()

    def _send_now(self) -> None:
        self._soon = False
        self.send()

    def _settle(self) -> None:
        """Lets the pump pass over in silence what is waited for already."""
        self._pump.quiet = self._reading and not (self._writing or self._tell_all or self._stopped)

    def _rest_later(self) -> None:
        if not self._stopped:
            self._resting = self._loop.call_later(_REST_AFTER, self._rest)

    def _rest(self) -> None:
        """An idle connection keeps little memory, whatever it has done before."""
        if not self._pump.rest():
            self._rest_later()

    def _step(self, move: Callable[[], int]) -> None:
        """One turn of the pump. Our own bug in it costs this connection, and no other."""
        if self._stopped or self._paused:
            return
        try:
            flags = move()
        except Exception:
            log.exception("the connection is closed because of an error of our own")
            self._failed()
            return
        if self._tell_all or flags != _READ or not self._reading or self._writing:
            self._told(flags)

    def _told(self, flags: int) -> None:
        if flags & _LARGE:
            flags ^= _LARGE
            self._rest_later()
        if not self._stopped and not self._paused:
            self._after(flags)
