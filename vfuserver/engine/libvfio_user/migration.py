"""The library's migration callbacks over our migration machine.

The library has a machine of its own, of the states without P2P and always with PRE_COPY; each of its arcs is a callback
that cannot wait. So the whole way is gone when the device is asked to quiesce for the message, which may take its time,
and the callbacks that follow only tell the library how it went. Its state outlives clients and resets, ours changes
with them (S3.6, S3.23): after either, the library is told RUNNING where the device runs, and where a client has left a
stream behind, the device catches up with the library when the next one goes on with it. It must not know messages.
"""

import errno
from typing import Any, Final

from vfuserver.engine.libvfio_user import api
from vfuserver.engine.libvfio_user.context import Context
from vfuserver.errors import CommandError, LocalError
from vfuserver.session.migration import Machine
from vfuserver.vfio import Later, MigrationState

STATES: Final = {
    api.TransitionState.STOP: MigrationState.STOP,
    api.TransitionState.RUNNING: MigrationState.RUNNING,
    api.TransitionState.STOP_AND_COPY: MigrationState.STOP_COPY,
    api.TransitionState.PRE_COPY: MigrationState.PRE_COPY,
    api.TransitionState.RESUME: MigrationState.RESUMING,
}

SAVING: Final = (MigrationState.PRE_COPY, MigrationState.STOP_COPY)
LARGEST: Final = 1 << 20


class Migration:
    """One context's migration, over the machine of whoever is connected."""

    def __init__(self, context: Context) -> None:
        """UsageError: the library has migration's version 1 only."""
        self.machine: Machine | None = None
        self._context = context
        self._state = MigrationState.RUNNING  # the library's
        self._error: BaseException | None = None
        self._ahead: bytes | Exception | None = None
        self._callbacks = context.ffi.new("vfu_migration_callbacks_t *")
        self._callbacks.version = api.MIGRATION_CALLBACKS
        self._callbacks.transition = context.callback("int(vfu_ctx_t *, int)", self._transition, "a change of state")
        signature = "ssize_t(vfu_ctx_t *, void *, uint64_t)"
        self._callbacks.read_data = context.callback(signature, self._read, "reading the stream")
        self._callbacks.write_data = context.callback(signature, self._write, "writing the stream")
        self._tell()

    @property
    def stopped(self) -> bool:
        """True while the library refuses commands because it holds the device for stopped."""
        return self._state in (MigrationState.STOP, MigrationState.STOP_COPY)

    def prepare(self, wanted: int) -> Later | None:
        """Goes to a state that the client has asked for, before the library does. A Later ends without an error."""
        if self.machine is None or wanted not in STATES.values():
            return None
        self._error = None
        try:
            later = self.machine.move(wanted)
        except Exception as error:
            self._error = error
            return None
        if later is None:
            return None
        whole = Later(later.what, on_cancel=later.cancel)
        later.when_done(lambda result: self._prepared(whole, result))
        return whole

    def read_ahead(self, count: int) -> None:
        """The library is about to read the stream, perhaps beside the loop, where the device must not run."""
        self._ahead = None
        if self._state in SAVING and count <= LARGEST:
            try:
                self._ahead = b"".join(self._caught_up().read(count))
            except Exception as error:
                self._ahead = error

    def give_up(self, error: BaseException) -> None:
        """What was prepared has not come to its end in time."""
        self._error = error

    def settle(self) -> None:
        """After a reset, or when a client has gone: where the device runs, the library begins anew, too."""
        if self.machine is not None and self._state is not self.machine.state is MigrationState.RUNNING:
            self._tell()
            self._state = MigrationState.RUNNING

    def _prepared(self, whole: Later, result: object) -> None:
        self._error = result if isinstance(result, BaseException) else None
        whole.set_result(None)

    def _tell(self) -> None:
        """The callbacks again: the library's way to RUNNING (it forgets some 50 bytes each time)."""
        result = self._context.lib.vfu_setup_device_migration_callbacks(self._context.handle, self._callbacks)
        self._context.must(result, "migration's callbacks: it is older than September 2023; --migration none serves it")

    # -- what the library calls

    def _transition(self, state: int) -> int:
        new, machine = STATES[api.TransitionState(state)], self._machine()
        if self._error is not None and machine.state is not new:
            error, self._error = self._error, None
            raise error
        self._state = new
        return 0

    def _read(self, buffer: Any, count: int) -> int:
        data, self._ahead = self._ahead, None
        if not isinstance(data, bytes):
            raise data or LocalError("the library reads the stream unasked")
        self._context.ffi.memmove(buffer, data, len(data))
        return len(data)

    def _write(self, buffer: Any, count: int) -> int:
        self._caught_up().write(bytes(self._context.ffi.buffer(buffer, count)))
        return count

    def _machine(self) -> Machine:
        if self.machine is None:
            raise CommandError(errno.ENODEV, "nobody is connected")
        return self.machine

    def _caught_up(self) -> Machine:
        machine = self._machine()
        if machine.state is MigrationState.STOP and self._state is not MigrationState.STOP:
            later = machine.move(self._state)
            if later is not None:
                later.cancel()
                raise CommandError(errno.EBUSY, f"the way to {self._state.name} takes time: ask for STOP, then for it")
        return machine
