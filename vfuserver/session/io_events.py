"""The eventfds that a client has got by DEVICE_GET_REGION_IO_FDS, watched until the connection ends.

It must not know messages, or what a signal does: that is the backend's.
"""

from functools import partial

from vfuserver.session.log import ConnectionLog
from vfuserver.session.ports import Cancellable, Watch
from vfuserver.vfio import IoEvent


class IoEventPort:
    """The watched events of one connection. Without a `watch` nothing can be given."""

    def __init__(self, watch: Watch | None, log: ConnectionLog) -> None:
        self.watch = watch
        self._log = log
        self._watching: dict[int, tuple[IoEvent, Cancellable]] = {}

    def give(self, event: IoEvent) -> tuple[int, ...]:
        """The event's descriptors, which stay the backend's; from now on its signals are heard."""
        fds = event.open()
        if self.watch is not None and fds[0] not in self._watching:
            self._watching[fds[0]] = event, self.watch(fds[0], partial(self._rung, event))
        return fds

    def given(self, event: IoEvent) -> bool:
        """Whether the client has got the event's descriptors."""
        return any(event is one for one, _ in self._watching.values())

    def pause(self) -> None:
        """Hears nothing until resume(): what is rung meanwhile stays in the eventfds, for whoever listens next."""
        for _, watching in self._watching.values():
            watching.cancel()

    def resume(self) -> None:
        """Hears again, also what was rung meanwhile."""
        if self.watch is not None:
            for fd, (event, watching) in self._watching.items():
                watching.cancel()
                self._watching[fd] = event, self.watch(fd, partial(self._rung, event))

    def close(self) -> None:
        """Hears nothing more. Before the backend closes the descriptors. Idempotent."""
        while self._watching:
            _, (_, watching) = self._watching.popitem()
            watching.cancel()

    def _rung(self, event: IoEvent) -> None:
        try:
            event.rung()
        except Exception:
            self._log.exception("a write by eventfd at offset %#x failed", event.offset)
