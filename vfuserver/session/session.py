"""One connection as a pure object: bytes and descriptors in, replies out.

The core's `Stream` is the receiver: it frames, keeps the order and serves the region commands. Everything else comes
here, to `_command`: the registry finds the command's class, the state table says whether it is legal now, the class
checks and handles it, and what it returns is the reply. An error is an exception: CommandError (an error reply; the
connection lives), PeerError (the stream means nothing; it closes), anything else is our bug or the device's (EIO to
the client, the traceback to the log).

Who runs a session feeds it (`feed`, or a `Pump` on `stream`), sends what is queued, and calls `close` once the peer
has gone or `broken` says why a stream ended. `on_output` tells that something was queued meanwhile, outside
of any feed. It must not know sockets or event loops.
"""

import errno
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from vfuserver._core import Stream
from vfuserver.errors import CommandError, LocalError, PeerError
from vfuserver.session.command import COMMANDS, Answer, Command, Direction, Request
from vfuserver.session.commands.device_feature import DeviceFeature
from vfuserver.session.commands.dma_read import DmaRead
from vfuserver.session.commands.dma_unmap import DmaUnmap
from vfuserver.session.commands.dma_write import DmaWrite
from vfuserver.session.commands.version import Version
from vfuserver.session.connection import Connection
from vfuserver.session.descriptors import Descriptors
from vfuserver.session.dma_layout import LayoutChoice
from vfuserver.session.holding import Holding
from vfuserver.session.io_events import IoEventPort
from vfuserver.session.irqs import InterruptPort
from vfuserver.session.log import ConnectionLog
from vfuserver.session.options import SessionOptions
from vfuserver.session.outgoing import Outgoing
from vfuserver.session.ports import OpenLane, Output, Schedule, Watch
from vfuserver.session.quirks import MESSAGE_DMA, REGION_ERRORS
from vfuserver.session.state import Event, State, next_state
from vfuserver.vfio import Backend, Later

SLOW: Final = 2.0
"""Seconds after which a handler is worth a warning: the client waits 5 (S1.11)."""

EXPECTED: Final = {
    (DmaUnmap.number, errno.ENOENT),  # QEMU with a vIOMMU unmaps ranges that hold nothing (field-notes G)
    (DeviceFeature.number, errno.ENOTTY),  # how clients find out what a device has
}
"""(command, errno) of refusals that a well-behaved client provokes: no warning."""


class Session:
    """One client on one device."""

    def __init__(
        self,
        backend: Backend,
        options: SessionOptions | None = None,
        *,
        schedule: Schedule,
        on_output: Callable[[], None],
        watch: Watch | None = None,
        open_lane: OpenLane | None = None,
        peer_pid: int | None = None,
    ) -> None:
        """`schedule` is the clock of deadlines, `watch` (optional) sees signals on eventfds.

        `open_lane` (optional) opens the socket of a second stream, for clients that speak twin socket; `peer_pid` is
        the client's process, if it is known.

        `on_output()` is called when something was queued outside a feed; it may be called from a device's code.
        """
        self.backend = backend
        self.options = options or SessionOptions()
        self.log = ConnectionLog(backend.name)
        self.state = State.FRESH
        self.stream = Stream(
            self._command, self._reply, max_transfer=self.options.max_data_xfer_size, on_later=self._hold
        )
        self.stream.on_hook_error = self._hook_error
        self.stream.masked_errors = self.options.quirks[REGION_ERRORS] == "all-ones"
        self._on_output = on_output
        self._inside = False  # in a callback of the stream: whoever feeds it sends afterwards
        self._held_command: str | None = None
        self._attached = False
        self._holding = Holding(self._complete, schedule, self.options.deadline, self.log)
        irqs = InterruptPort(backend.irqs, backend.interrupts_ready, watch)
        events = IoEventPort(watch, self.log)
        layout = LayoutChoice(DmaRead.request, self.options.quirks[MESSAGE_DMA])
        outgoing = Outgoing(self.stream, DmaRead.number, DmaWrite.number, layout, self._output, self.log)
        self.connection = Connection(
            backend, self.options, self.stream, irqs, events, outgoing, layout, self.log, schedule, open_lane, peer_pid
        )
        self.stream.regions = [(one.size, one.table or one.access) for one in self.connection.regions]

    @property
    def label(self) -> str:
        """Device and connection, as in the log: `edu#3`."""
        return self.log.label

    @property
    def broken(self) -> str | None:
        """Why a stream of the connection means nothing any more, or None."""
        twin = self.connection.twin
        return self.stream.broken or (twin.stream.broken if twin else None)

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self.state is State.CLOSED

    def dump(self) -> dict[str, Any]:
        """The connection as plain data, for `inspect` (S4.26)."""
        return {"label": self.label, "state": self.state.value, "held": self._holding.what, **self.connection.dump()}

    def feed(self, data: bytes | bytearray | memoryview, fds: Sequence[int] = ()) -> list[Output]:
        """Takes bytes and descriptors (owned from now on); returns what to send, in order."""
        return self.stream.feed(data, fds)

    def close(self, reason: str) -> None:
        """Ends the connection: the device is detached, all that came from the client is given back. Idempotent."""
        if self.state is State.CLOSED:
            return
        broken = self.broken
        self._enter(Event.CLOSE, "close")
        self._holding.cancel()
        self.connection.cut_off()
        if self._attached:
            self.connection.abandon_migration()
            self._detach()
        self.connection.close()
        self.log.tell_withheld()
        self.log.log(logging.WARNING if broken else logging.INFO, "connection closed: %s", broken or reason)

    # -- what the stream calls

    def _command(self, number: int, message_id: int, flags: int, payload: bytes, fds: list[int]) -> object:
        started, self._inside = time.monotonic(), True
        name = f"command {number}"
        with Descriptors(fds) as owned:
            try:
                command = self._find(number)
                name = command.name
                return self._handle(command, Request(command.request, payload, owned))
            except CommandError as error:
                if (number, error.errno) in EXPECTED:
                    self.log.debug("%s refused: %s", name, error)
                else:
                    self.log.provoked(logging.WARNING, "%s refused: %s", name, error)
                raise
            except PeerError:
                raise
            except Exception as error:
                self.log.provoked(logging.ERROR, "%s failed", name, error=error)
                raise CommandError(errno.EIO, f"{name}: {error!r}") from error
            finally:
                self._inside = False
                if time.monotonic() - started > SLOW:
                    self.log.warning("%s took %.1f s", name, time.monotonic() - started)

    def _find(self, number: int) -> type[Command]:
        command = COMMANDS.get(number)
        if command is None or command.direction is not Direction.TO_SERVER or not command.offered(self.connection):
            raise CommandError(errno.ENOTSUP, f"no command {number} of a client is known")
        if not command.served:
            raise CommandError(errno.ENOTSUP, f"{command.name} is not served")
        return command

    def _handle(self, command: type[Command], request: Request) -> Answer:
        event = Event.VERSION if command is Version else Event.COMMAND
        after = next_state(self.state, event, self.label, command.name)
        command.check(request)
        answer = command.handle(self.connection, request)
        if event is Event.VERSION:
            self._attach()
        self.state = after
        self._held_command = command.name if isinstance(answer, Later) else None
        return answer

    def _reply(self, number: int, message_id: int, error: int, payload: bytes, fds: list[int]) -> None:
        self._inside = True
        try:
            with Descriptors(fds):
                if self.connection.twin is None:
                    self.connection.outgoing.take_reply(number, message_id, error, payload)
                else:
                    self.connection.outgoing.misplaced(number, message_id)
        finally:
            self._inside = False

    def _hold(self, later: object) -> None:
        self._enter(Event.HOLD, self._held_command or "a register access")
        self._inside = True  # it may be complete already
        try:
            self._holding.hold(self._checked(later))
        finally:
            self._inside = False

    def _checked(self, later: object) -> Later:
        """What a handler or hook returned, or a Later that has failed in its place."""
        if isinstance(later, Later):
            return later
        what = self._held_command or f"a hook of region {self.stream.hook_region}"
        failed = Later(what)
        failed.set_error(LocalError(f"{what} returned {later!r}, must be a value, None or Later"))
        return failed

    def _hook_error(self, region: int, offset: int, error: BaseException) -> None:
        where = "a message" if region < 0 else self.backend.describe_access(region, offset)
        if isinstance(error, CommandError):
            self.log.provoked(logging.WARNING, "%s refused: %s", where, error)
        else:
            self.log.provoked(logging.ERROR, "%s failed", where, error=error)

    # -- what it does itself

    def _complete(self, result: object) -> None:
        """The held command's answer is there; the commands that waited behind it are served."""
        command, self._held_command = self._held_command, None
        what = command or "a register access"
        if isinstance(result, CommandError):
            self.log.provoked(logging.WARNING, "%s refused: %s", what, result)
        elif isinstance(result, BaseException):
            self.log.provoked(logging.ERROR, "%s failed", what, error=result)
            result = CommandError(errno.EIO, f"{what}: {result!r}")
        elif command and result is None:
            result = b""
        self._enter(Event.ANSWER, what)
        self.stream.complete(result)
        self.connection.outgoing.resume()
        self._output()

    def _output(self) -> None:
        if not self._inside:
            self._on_output()

    def _enter(self, event: Event, what: str) -> None:
        self.state = next_state(self.state, event, self.label, what)

    def _attach(self) -> None:
        try:
            self.backend.attach(self.connection)
        except Exception as error:
            self.log.exception("the device refused the connection")
            raise PeerError(f"the device refused the connection: {error!r}") from error
        self._attached = True

    def _detach(self) -> None:
        self._attached = False
        try:
            self.backend.detach()
        except Exception:
            self.log.exception("the device failed to detach")
