"""One accepted socket, the twin socket that may come with it, and the session behind them.

It must not know commands or devices. The sockets are moved by lanes; here is what their ends mean: a connection lives
as long as both of its sockets, and what the client had sent before one ended is served.
"""

import asyncio
import os
import select
import socket
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from vfuserver._core import Ledger, LedgerReport, Pump, Stream
from vfuserver.engine.lane import Lane
from vfuserver.engine.watching import Watching
from vfuserver.plain import Descriptor
from vfuserver.session import Keeper, Session, SessionOptions
from vfuserver.session.options import DEDICATED
from vfuserver.vfio import Backend

_GONE = select.POLLHUP | select.POLLERR
NOBODY: Final = -1
"""The client's end of a twin socket that it has got long ago."""


def peer_pid(sock: socket.socket) -> int | None:
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
        carried: Mapping[str, Any] | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """`carried`: what another process has told of the connection, whose device has been taken over; it goes on
        with resume(). CommandError, OSError, PeerError: it cannot be, and `sock` stays the caller's.

        With a `keeper` the connection outlives the process: its bytes lie in ledgers.
        """
        self._loop = loop
        self._on_closed = on_closed
        self._ended: str | None = None  # why the client sends no more commands
        self._closed = False
        self._twin: Lane | None = None
        self._twin_socket: socket.socket | None = None  # one that another process had opened
        self._twin_ledger: Descriptor | None = None
        self._twin_ended = False
        self.in_hand: tuple[int, int] | None = None
        """Number and id of the command that a process was killed by, or in; the client gets EIO for it."""
        self.session = Session(
            backend,
            options,
            schedule=loop.call_later,
            on_output=self._send,
            watch=partial(Watching, loop),
            open_lane=self._open_twin,
            peer_pid=peer_pid(sock),
            keeper=keeper,
        )
        self._last_id: int | None = None  # of our own messages, if a process that was killed had sent any
        self._ledgers: dict[Stream, Ledger] | None = None if keeper is None else {}
        if carried is None:
            self._use_ledger(self.session.stream, None)
        limit, stays = options.poll_limit, options.poll == DEDICATED
        self._main = Lane(loop, sock, self.session.stream, self._after_main, self._failed, limit, stays)
        if carried is None:
            self._main.watch(Pump.READ)
        else:
            self._adopt(carried)

    def dump(self) -> dict[str, Any]:
        """The connection, and what polling for its messages costs, as plain data (S4.26)."""
        return {**self.session.dump(), "polling": {"mode": self.session.options.poll, **self._main.polling}}

    # -- from process to process

    def pause(self) -> None:
        """Nothing is received, sent or rung until resume()."""
        for lane in self._lanes:
            lane.pause()
        self.session.pause()

    def resume(self) -> None:
        """Goes on after pause(), or after it was taken over."""
        if self._closed:
            return
        self.session.resume()
        for lane in self._lanes:
            lane.resume()

    def carry(self, *, streams: bool = True) -> dict[str, Any]:
        """Everything of the paused connection, for another process (plain data, descriptors lent).

        Without its `streams`, which lie in ledgers then, also of one that is not paused.
        """
        lanes: list[Lane | None] = [self._main, self._twin]
        return {
            "sockets": [None if lane is None else Descriptor(lane.socket.fileno()) for lane in lanes],
            "ledgers": [None if streams else self._ledger_of(lane) for lane in lanes],
            "session": self.session.carry(streams=streams),
        }

    def _ledger_of(self, lane: Lane | None) -> Descriptor | None:
        ledger = None if lane is None or self._ledgers is None else self._ledgers.get(lane.stream)
        return None if ledger is None else Descriptor(ledger.fd)

    def _use_ledger(self, stream: Stream, carried: Descriptor | None) -> LedgerReport | None:
        """Has a stream's bytes lie where they outlive the process: in a new ledger, or in one of a process that was
        killed; then what became of the message in hand."""
        if self._ledgers is None:
            return None
        ledger = Ledger(self.session.options.max_data_xfer_size, -1 if carried is None else carried.fd)
        self._ledgers[stream] = ledger
        report = stream.use(ledger)
        self._last_id = report.last_id if report.last_id is not None else self._last_id
        return report

    def leave(self) -> None:
        """Another process goes on with it: gives back what is ours, and tells nobody. After the device is closed."""
        self._closed = True
        for lane in self._lanes:
            lane.stop()
        self.session.leave()
        for lane in self._lanes:
            lane.close()

    def _adopt(self, carried: Mapping[str, Any]) -> None:
        _, twin = carried["sockets"]
        main_ledger, self._twin_ledger = carried["ledgers"]
        self._twin_socket = None if twin is None else socket.socket(fileno=os.dup(twin.fd))
        try:
            report = self._use_ledger(self.session.stream, main_ledger)
            if report is not None and report.failed is not None:
                self.in_hand = report.failed[:2]
            self.session.adopt(carried["session"])
            if self._last_id is not None:
                self.session.connection.outgoing.go_on_behind(self._last_id)
        except BaseException:
            self._closed = True
            self.session.leave()
            if self._twin_socket is not None:
                self._twin_socket.close()
            raise
        self.pause()

    @property
    def _lanes(self) -> list[Lane]:
        return [lane for lane in (self._main, self._twin) if lane is not None]

    def close(self, reason: str) -> None:
        """Ends the session (the device is detached, its client's memory unmapped) and closes the sockets."""
        if self._closed:
            return
        self._closed = True
        for lane in self._lanes:
            lane.stop()
        self.session.close(reason)
        for lane in self._lanes:
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
        self._main.tell_all = True
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
        self._use_ledger(stream, self._twin_ledger)
        if self._twin_socket is not None:
            self._twin = Lane(self._loop, self._twin_socket, stream, self._after_twin, self._failed)
            return NOBODY, self._twin.send_soon
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
            self._twin_ended = self._main.tell_all = True
            self._main.send()  # ends the connection once the main socket has nothing more to serve
        else:
            twin.watch(flags)
