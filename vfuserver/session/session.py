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
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from vfuserver._core import Stream
from vfuserver.errors import CommandError, LocalError, PeerError
from vfuserver.session.command import COMMANDS, Answer, Command, Direction, Request, Survival
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
from vfuserver.session.ports import Keeper, OpenLane, Output, Schedule, Watch
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
        keeper: Keeper | None = None,
    ) -> None:
        """`schedule` is the clock of deadlines, `watch` (optional) sees signals on eventfds.

        `open_lane` (optional) opens the socket of a second stream, for clients that speak twin socket; `peer_pid` is
        the client's process, if it is known; `keeper` is for connections that outlive the process.

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
        self._keeper = keeper
        self._keep_when_answered = False
        self._held_command: str | None = None
        self._attached = False
        self._holding = Holding(self._complete, schedule, self.options.deadline, self.log)
        irqs = InterruptPort(backend.irqs, backend.interrupts_ready, watch)
        events = IoEventPort(watch, self.log)
        layout = LayoutChoice(DmaRead.request, self.options.quirks[MESSAGE_DMA])
        outgoing = Outgoing(self.stream, DmaRead.number, DmaWrite.number, layout, self._output, self.log)
        self.connection = Connection(
            backend,
            self.options,
            self.stream,
            irqs,
            events,
            outgoing,
            layout,
            self.log,
            schedule,
            open_lane,
            peer_pid,
            maps_in_core=keeper is None,
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

    # -- from process to process

    @property
    def held(self) -> str | None:
        """What waits for its answer: such a connection cannot be carried."""
        return self._holding.what

    def pause(self) -> None:
        """Hears no doorbells until resume(); whoever runs the session feeds it nothing meanwhile."""
        self.connection.io_events.pause()

    def resume(self) -> None:
        """Goes on after pause() or adopt()."""
        self.connection.io_events.resume()

    def carry(self, *, streams: bool = True) -> dict[str, Any]:
        """Everything of the connection, for another process that goes on with it (plain data, descriptors lent).

        Without its `streams` also while a command is being served. LocalError: one is held, or the connection has
        ended.
        """
        if self.state not in (State.FRESH, State.READY) or self.broken:
            raise LocalError(f"{self.label}: a connection in state {self.state.value!r} cannot be carried")
        return {"label": self.label, "state": self.state.value, "connection": self.connection.carry(streams)}

    def adopt(self, carried: Mapping[str, Any]) -> None:
        """Becomes the connection that carry() told of: before anything is fed, and with a device that has taken over
        and is still paused. What was received already is served by the first feed, or by `Stream.serve`.

        CommandError, OSError, PeerError: it cannot, and must be closed.
        """
        self.log.adopt(carried["label"])
        self.connection.adopt(carried["connection"])
        self.state = State(carried["state"])
        if self.state is State.READY:
            self._attach()

    def again(self, number: int, payload: bytes, fds: Sequence[int]) -> None:
        """Does a command once more that another process had noted; the client has its answer already, or gets an error.
        The descriptors stay the caller's."""
        with Descriptors([os.dup(fd) for fd in fds]) as owned:
            command = self._find(number)
            try:
                self._handle(command, Request(command.request, payload, owned))
            except CommandError as error:
                self.log.debug("%s is refused again: %s", command.name, error)

    def leave(self) -> None:
        """Another process goes on with it: gives back what is ours, and tells neither the client nor the log.

        The device must be closed already, so that nothing of it acts any more.
        """
        self.state, self._attached = State.CLOSED, False
        self._holding.cancel()
        self.connection.close()

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
                request = Request(command.request, payload, owned)
                if self._keeper is None:
                    return self._handle(command, request)
                return self._handle_and_keep(self._keeper, command, message_id, request)
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

    def _handle_and_keep(self, keeper: Keeper, command: type[Command], message_id: int, request: Request) -> Answer:
        complete = len(request.payload) >= command.request.size
        survival = command.survival(request.payload) if complete else Survival.NOTHING
        if survival is Survival.AGAIN:
            keeper.note(command.number, message_id, request.payload, tuple(request.fds))
        answer = self._handle(command, request)
        if survival is Survival.KEPT_ANEW and isinstance(answer, Later):
            self._keep_when_answered = True
        elif survival is Survival.KEPT_ANEW:
            keeper.keep()
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
        if self._keep_when_answered and self._keeper is not None:
            self._keep_when_answered = False
            self._keeper.keep()
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
