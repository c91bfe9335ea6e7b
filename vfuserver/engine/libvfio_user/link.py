"""One connection of a context, driven by the loop: the library is called when a whole message is there.

It runs in the loop's thread, one message a call, and never where it would block: not before a message has arrived
(`peek`), and not while the client does not read its replies. What blocks by design is called beside the loop while
nothing else touches the context: DMA messages, and messages with long replies, for which the device has done its part
before. A message that takes the device time is shown to the library once it is done (`ahead`), or put off by the
library until the device has quiesced; everything behind it waits.

It must not know listening sockets, nor what a device is.
"""

import asyncio
import errno
import logging
import os
import select
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from vfuserver.engine.libvfio_user.ahead import LONG
from vfuserver.engine.libvfio_user.api import ResetType
from vfuserver.engine.libvfio_user.calling import Beside
from vfuserver.engine.libvfio_user.connection import Connection
from vfuserver.engine.libvfio_user.context import Context, shut
from vfuserver.engine.libvfio_user.peek import (
    END,
    Answered,
    Look,
    answer,
    drain,
    peek,
    peek_descriptors,
    unread,
    whole_payload,
)
from vfuserver.engine.libvfio_user.readiness import HangUp, Readiness
from vfuserver.engine.watching import Watching
from vfuserver.errors import CommandError
from vfuserver.session.holding import Holding
from vfuserver.vfio import IoEvent, Later

AT_ONCE: Final = 32
"""Messages that are served before others get their turn."""
STEP: Final = 0.001
"""Seconds after which a message that has not arrived whole is looked at again, first; then twice as many."""
LONGEST_STEP: Final = 0.1
FULL: Final = 1 << 16
"""Bytes of a message that wait to be read when the rest may not fit into the socket."""
STUCK: Final = 0.5
"""Seconds without a further byte after which it does not."""
ROOM: Final = 4 << 20
REPLY: Final = 3 * LONG
"""Room that a reply takes which is not sent beside the loop, at most: the kernel counts its own pages, too."""
SO_SNDBUFFORCE: Final = 32
"""socket(7); Python has no name for it."""
COLLISION: Final = (
    "a command came while libvfio-user waited for the reply to its DMA message, and was taken for it: closed. The "
    "client should have a twin socket, or hand out descriptors of its memory"
)
_GONE: Final = select.POLLHUP | select.POLLERR
_SILENT: Final = _GONE | select.POLLRDHUP


def _make_room(connection: socket.socket) -> int:
    """The library keeps no replies, so the socket must: those to as many commands as a client sends without reading.

    How much fits, as the kernel counts it.
    """
    try:
        connection.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, ROOM)
    except PermissionError:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)  # as much of it as the system allows
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


class Link:
    """A client's socket, from VERSION until it is closed; `on_end(link)` is called once. Also its `messages.Turns`."""

    def __init__(
        self, context: Context, loop: asyncio.AbstractEventLoop, name: str, on_end: Callable[["Link"], None]
    ) -> None:
        """The context has a connection. `connect` comes next."""
        self._context, self._loop, self._on_end = context, loop, on_end
        self._thread = threading.get_ident()
        self.socket = socket.socket(fileno=os.dup(context.poll_fd))
        self._room = _make_room(self.socket)
        self._readiness = Readiness(loop, self.socket.fileno(), self._readable)
        self._hang_ups = [HangUp(loop, self.socket.fileno(), self._main_ended)]
        if context.twin >= 0:
            self._hang_ups.append(HangUp(loop, context.twin, self._twin_ended))
        self._without_twin = False
        self._client: Connection | None = None
        self._holding: Holding | None = None
        self._beside = Beside(loop, f"{name} DMA messages")
        self._result: asyncio.Future[int] | None = None
        self._idle = asyncio.Event()
        self._look = END  # what the library is serving
        self._put_off: Look | None = None  # what it goes on with, once the device has quiesced
        self._quiescing: Later | None = None
        self._ahead: Look | None = None  # what it is not shown before the device has done it
        self._asked = False
        self._gone_beside = False
        self._arrived, self._since, self._step = 0, 0.0, STEP
        self._timer: asyncio.TimerHandle | None = None
        self._over = self._cutting = False
        self._rings: set[int] = set()

    def connect(self, client: Connection, deadline: float) -> None:
        """Serves `client` from now on; what takes longer than `deadline` seconds is answered with ETIMEDOUT."""
        self._client = client
        self._holding = Holding(self._go_on, self._loop.call_later, deadline, client.log)
        try:
            client.attach()
        except Exception:
            client.log.exception("the device refused the connection")
            self._cut()
        else:
            self._resume()

    @property
    def client(self) -> Connection:
        """The device's side of the connection."""
        assert self._client is not None
        return self._client

    @property
    def held(self) -> str | None:
        """What waits for its answer, or None."""
        return self._holding.what if self._holding is not None else None

    @property
    def ending(self) -> bool:
        """True where the client has closed, and a call beside the loop is made to find out."""
        if self._over or not self._poll(_GONE):
            return False
        self._context.cut()
        return True

    def peer_is_gone(self) -> bool:
        """Serves what the client has sent; True if it has closed its end (and then the connection is over)."""
        if self._poll(_GONE):
            self._finish_held()
            while not self._over and not self._beside.busy:
                look = peek(self.socket) or END
                if look.whole and not look.cut:
                    self._serve(look)
                else:
                    self._cut()
        else:
            self._readable()
        return self._over

    def watch(self, fd: int, event: IoEvent) -> None:
        """Hears a doorbell until the connection ends."""
        if fd not in self._rings:
            self._rings.add(fd)
            self._loop.add_reader(fd, partial(self._rung, event))

    def when_readable(self, fd: int, callback: Callable[[], None]) -> Watching:
        """Calls back whenever `fd` is readable, until it is cancelled."""
        return Watching(self._loop, fd, callback)

    async def beside(self, call: Callable[[], int]) -> int:
        """Makes a call that blocks when nothing else uses the context; its result, or ENOTCONN."""
        while not self._over and not self._is_idle():
            self._idle.clear()
            await self._idle.wait()
        if self._over:
            return errno.ENOTCONN
        self._pause()
        self._result = self._loop.create_future()
        self._beside.start(call, self._back)
        return await self._result

    def close(self) -> bool:
        """Ends it from our side, the device first; the context is to be destroyed next. False: it must not be, as a
        call is stuck in it."""
        self._pause()
        self._context.cut()
        free = self._beside.join()
        self._finish_held()
        self._end()
        return free

    # -- what the library calls

    def quiesce(self) -> int:
        """0: the device has quiesced; -1 with EBUSY: it takes time, or the library is being called beside the loop."""
        if threading.get_ident() != self._thread:
            self._gone_beside = True
        elif self._look is END or self._asked:  # the connection ends, perhaps because the reply could not be sent
            self.client.end()
            return 0
        else:
            self._asked = True
            self._quiescing = self.client.quiesce(self._look)
            if self._quiescing is None or self._quiescing.done:
                return 0
        self._context.ffi.errno = errno.EBUSY
        return -1

    def reset(self, kind: int) -> int:
        """The reset callback."""
        if kind == ResetType.LOST_CONN:
            self.client.end()
        else:
            self.client.reset()
        return 0

    # -- messages

    def _readable(self) -> None:
        for _ in range(AT_ONCE):
            if self._over or not self._is_idle():
                return
            look = peek(self.socket)
            if look is None:
                return
            if look.cut:
                self.client.log.provoked(logging.WARNING, "descriptors inside a message's header: closed")
                self._cut()
                return
            if not look.whole:
                self._wait_for_the_rest(look)
                return
            self._arrived, self._step = 0, STEP
            self._readiness.watch(reading=True)
            if look is not END and unread(self.socket) + REPLY > self._room:
                self._wait_for_room()
                return
            self._serve(look)

    def _serve(self, look: Look) -> None:
        later = self.client.ahead(look, partial(whole_payload, self.socket, look))
        if later is None:
            self._run(look)
        else:
            self._ahead = look
            self._hold(later)

    def _run(self, look: Look) -> None:
        try:
            self.client.before(look, partial(whole_payload, self.socket, look), partial(peek_descriptors, self.socket))
        except Answered:
            self._answer_without(look, 0)
            return
        except CommandError as refused:
            self.client.log.provoked(logging.WARNING, "command %d refused: %s", look.command, str(refused))
            self._answer_without(look, refused.errno)
            return
        self._look, self._asked, self._quiescing = look, False, None
        if self.client.answers_at_length(look):
            self._pause()
            self._beside.start(self._context.run, self._ran)
        else:
            self._ran(self._context.run())

    def _ran(self, error: int) -> None:
        look = self._look
        self._gone()
        quiescing = self._take_quiescing()
        if error == errno.EBUSY and quiescing is not None:
            self._put_off = look
            self._hold(quiescing)
        elif error and self._context.connected:
            self.client.log.provoked(logging.WARNING, "libvfio-user has lost its place: %s: closed", os.strerror(error))
            self._cut()
        else:
            self._served(look)
        self._resume()

    def _answer_without(self, look: Look, error: int) -> None:
        """The library must not see a message: it would block in it, or worse."""
        with suppress(OSError):  # the client has gone: the library will meet the end
            answer(self.socket, look, error)

    def _take_quiescing(self) -> Later | None:
        later, self._quiescing = self._quiescing, None
        return later

    def _served(self, look: Look) -> None:
        self._look = END
        if not self._context.connected:
            self._end()
            return
        self.client.after(look)

    def _hold(self, later: Later) -> None:
        assert self._holding is not None
        self._pause()
        self._holding.hold(later)

    def _go_on(self, result: object) -> None:
        """What was held is done, or has taken too long."""
        if isinstance(result, BaseException):
            self.client.give_up(result)
        ahead, self._ahead = self._ahead, None
        put_off, self._put_off = self._put_off, None
        if ahead is not None:
            self._run(ahead)
        elif put_off is not None:
            self._look = put_off
            self._context.quiesced()
            self._served(put_off)
        self._resume()

    def _finish_held(self) -> None:
        """Nobody waits any more for what is held."""
        if self._holding is not None and self._holding.what is not None:
            self._holding.cancel()
            self._go_on(CommandError(errno.ENOTCONN, "the client went away"))

    # -- waiting

    def _is_idle(self) -> bool:
        return self.held is None and self._put_off is None and not self._beside.busy

    def _resume(self) -> None:
        if not self._over and self._is_idle():
            self._readiness.watch(reading=True)
            self._idle.set()
            if self._without_twin:
                self._loop.call_soon(self._serve_out)

    def _pause(self) -> None:
        self._readiness.watch()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait_for_room(self) -> None:
        """The client does not read its replies: nothing is served until it does."""
        self._readiness.watch(writing=True)

    def _wait_for_the_rest(self, look: Look) -> None:
        """A message that is not whole would block the library, or be cut by it: it is looked at again, a little later.

        One that does not fit into the socket ends the connection: the library reads what is there, and takes the rest
        for another message.
        """
        now = self._loop.time()
        if look.arrived > self._arrived:
            self._arrived, self._since, self._step = look.arrived, now, STEP
        if self._poll(_SILENT):
            self._cut()
        elif look.arrived >= FULL and now - self._since > STUCK:
            text = "%d of a message's %d bytes fit into the socket, and libvfio-user must have all of them: closed"
            self.client.log.error(text, look.arrived, look.size)
            self._cut()
        else:
            self._pause()
            self._timer = self._loop.call_later(self._step, self._look_again)
            self._step = min(2 * self._step, LONGEST_STEP)

    def _look_again(self) -> None:
        self._timer = None
        self._readiness.watch(reading=True)
        self._readable()

    def _poll(self, events: int) -> bool:
        poll = select.poll()
        poll.register(self.socket, events)
        return any(found & events for _, found in poll.poll(0))

    # -- beside the loop, and the end

    def _main_ended(self) -> None:
        """Who reads it will see that; what waits beside the loop for the other socket must not."""
        if self._beside.busy:
            self._context.cut()

    def _twin_ended(self) -> None:
        self._without_twin = True
        self._serve_out()

    def _serve_out(self) -> None:
        """The client has closed the twin socket: what it had sent before is served, and that is the end of both."""
        while not self._over and self._is_idle():
            look = peek(self.socket)
            if look is None or look is END or look.cut or not look.whole:
                self.client.log.info("the client has closed the twin socket")
                self._cut()
            else:
                self._serve(look)

    def _cut(self) -> None:
        """Ends the connection; the library reads to its end."""
        if self._cutting:
            return
        self._cutting = True
        shut(self.socket)
        drain(self.socket)
        while not self._over:
            self._serve(END)

    def _gone(self) -> None:
        """A call beside the loop has met the end of the connection: it goes on here."""
        if self._gone_beside:
            self._gone_beside = False
            self.client.end()
            self._context.quiesced()

    def _back(self, result: int) -> None:
        self._gone()
        if not self._context.connected:
            self._end()
        elif result == errno.EPROTO:
            self.client.log.error(COLLISION)
            self._cut()
        self._answer(result)
        self._resume()

    def _answer(self, result: int) -> None:
        future, self._result = self._result, None
        if future is not None and not future.done():
            future.set_result(result)

    def _rung(self, event: IoEvent) -> None:
        try:
            event.rung()
        except Exception:
            self.client.log.exception("a write by eventfd at offset %#x failed", event.offset)

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        self._context.twin = -1
        for one in self._hang_ups:
            one.close()
        self._pause()
        while self._rings:
            self._loop.remove_reader(self._rings.pop())
        if self._holding is not None:
            self._holding.cancel()
        if self._client is not None:
            self._client.end()
        self._readiness.close()
        self.socket.close()
        self._answer(errno.ENOTCONN)
        self._idle.set()
        self._on_end(self)
