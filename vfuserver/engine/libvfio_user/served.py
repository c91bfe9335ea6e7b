"""One device on its listener, served by libvfio-user.

Negotiation blocks inside the library until the client has said VERSION, so it is made beside the loop; a client that
takes longer than the deadline is cut off, and others wait meanwhile. A newcomer on a busy socket is refused, but not
before what the present client has sent is served and it is seen not to have closed: as with the default engine. It must
not know what a device is beyond the `Backend` contract.
"""

import asyncio
import errno
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from vfuserver.engine.accepting import EXHAUSTED, PAUSE
from vfuserver.engine.choice import STAYS
from vfuserver.engine.libvfio_user import api, regions
from vfuserver.engine.libvfio_user.calling import Beside, errno_of
from vfuserver.engine.libvfio_user.connection import Connection, tell
from vfuserver.engine.libvfio_user.context import Context
from vfuserver.engine.libvfio_user.interrupts import Interrupts, callbacks
from vfuserver.engine.libvfio_user.library_log import log_into
from vfuserver.engine.libvfio_user.link import Link
from vfuserver.engine.libvfio_user.migration import Migration
from vfuserver.engine.listen import Listener
from vfuserver.engine.unix_socket import peer_pid
from vfuserver.errors import CommandError
from vfuserver.session import Keeper
from vfuserver.session.log import ConnectionLog
from vfuserver.session.options import SessionOptions
from vfuserver.session.quirks import REGION_ERRORS
from vfuserver.vfio import Backend

_NOBODY: Final = {errno.EAGAIN, errno.ECONNABORTED}


class Served:
    """One device, its context, and the client that it has at the moment."""

    def __init__(
        self,
        backend: Backend,
        listener: Listener,
        options: SessionOptions,
        loop: asyncio.AbstractEventLoop,
        _keeper: Keeper | None = None,
    ) -> None:
        """UsageError: the library is not there, or refuses the device; `refusals.check` has said the rest. A keeper is
        told nothing: see kept()."""
        self._backend, self._options, self._loop = backend, options, loop
        self.listener = listener
        self.finished: asyncio.Future[None] = loop.create_future()
        self._log = ConnectionLog(backend.name)
        self._link: Link | None = None
        self._beside = Beside(loop, f"{backend.name} VERSION")
        self._timer: asyncio.TimerHandle | None = None
        self._watching = self._closing = False
        self._context = Context(api.library(), backend.name, self._failed)
        self._doorbells = regions.Doorbells(self._context)
        try:
            self._set_up()
            self._context.listen_on(listener.socket)
        except BaseException:
            self._context.destroy()
            self._doorbells.close()
            raise

    def begin(self) -> None:
        """From now on the device is served."""
        self._watch(True)

    @property
    def name(self) -> str:
        """The device's."""
        return self._backend.name

    async def dump(self) -> dict[str, Any]:
        """The device, where it is served, and its client, as plain data (S4.26)."""
        path = self.listener.path
        return {
            "name": self._backend.name,
            "socket": None if path is None else str(path),
            "engine": "libvfio-user",
            **self._backend.dump(),
            "connection": None if self._link is None else self._dump(self._link),
        }

    def close(self) -> None:
        """Disconnects the client, stops listening, frees the context, closes the device."""
        self._closing = True
        self._watch(False)
        free = self._stop_negotiating()
        if self._link is not None:
            free &= self._link.close()
        if free:
            self._context.destroy()
        else:
            self._log.error("libvfio-user is stuck in a call: its context is left as it is")
        self._doorbells.close()
        if not self.finished.done():
            self.finished.set_result(None)
        self.listener.close()
        self._backend.close()

    # -- from process to process: the library tells nobody what its connections are

    async def pause(self, patience: float) -> float:
        """CommandError(ENOTSUP): it cannot be handed over, and goes on."""
        self._stays()

    def resume(self) -> None:
        """It never stood still."""

    def kept(self) -> dict[str, Any]:
        """CommandError(ENOTSUP)."""
        self._stays()

    def carry(self) -> dict[str, Any]:
        """CommandError(ENOTSUP)."""
        self._stays()

    def adopt(self, carried: Mapping[str, Any]) -> None:
        """CommandError(ENOTSUP)."""
        self._stays()

    def again(self, noted: Sequence[Any]) -> None:
        """CommandError(ENOTSUP)."""
        self._stays()

    def leave(self) -> None:
        """CommandError(ENOTSUP)."""
        self._stays()

    def _stays(self) -> NoReturn:
        raise CommandError(errno.ENOTSUP, f"{self.name} cannot be handed over: {STAYS['libvfio-user']}")

    # -- setting up

    def _set_up(self) -> None:
        context, backend, options = self._context, self._backend, self._options
        log_into(context, self._log)
        masks = options.quirks[REGION_ERRORS] == "all-ones"
        regions.set_up(context, backend, self._made, masks, self._refused)
        self._doorbells.set_up(backend)
        for index, callback in callbacks(context, self._eventfds):
            context.must(context.lib.vfu_setup_irq_state_callback(context.handle, index, callback), index.name)
        self._set_up_memory(options.max_dma_maps)
        reset = context.callback("vfu_reset_cb_t *", self._reset, "a reset")
        context.must(context.lib.vfu_setup_device_reset_cb(context.handle, reset), "the reset callback")
        quiesce = context.callback("vfu_device_quiesce_cb_t *", self._quiesce, "quiescing")
        context.lib.vfu_setup_device_quiesce_cb(context.handle, quiesce)
        migrates = backend.migration is not None and options.migration != "none"
        self._migration = Migration(context) if migrates else None

    def _set_up_memory(self, most: int) -> None:
        context = self._context
        register = context.callback("vfu_dma_cb_t *", self._register, "DMA_MAP")
        unregister = context.callback("vfu_dma_cb_t *", self._unregister, "DMA_UNMAP")
        context.must(context.library.setup_dma(context.handle, most, register, unregister), "DMA")

    # -- what the library calls

    def _register(self, info: Any) -> None:
        address = int(self._context.ffi.cast("uintptr_t", info.vaddr))
        if self._link is not None:
            self._link.client.areas.register(*self._range(info), info.prot, address)

    def _unregister(self, info: Any) -> None:
        if self._link is not None:
            self._link.client.areas.unregister(*self._range(info))

    def _range(self, info: Any) -> tuple[int, int]:
        return int(self._context.ffi.cast("uintptr_t", info.iova.iov_base)), info.iova.iov_len

    def _eventfds(self) -> Interrupts | None:
        return None if self._link is None else self._link.client.irqs

    def _reset(self, kind: int) -> int:
        return 0 if self._link is None else self._link.reset(kind)

    def _quiesce(self) -> int:
        return 0 if self._link is None else self._link.quiesce()

    def _made(self) -> bytes | None:
        return None if self._link is None else self._link.client.accesses.take()

    def _failed(self, what: str, error: BaseException) -> None:
        tell(self._log_now, what, error)

    def _refused(self, region: int, offset: int, error: BaseException) -> None:
        hooks = error.__cause__ if errno_of(error) == errno.EIO else None  # a table's EIO stands for what a hook raised
        tell(self._log_now, self._backend.describe_access(region, offset), hooks or error)

    @property
    def _log_now(self) -> ConnectionLog:
        return self._log if self._link is None else self._link.client.log

    # -- clients

    def _watch(self, wanted: bool) -> None:
        if wanted and not self._watching:
            self._loop.add_reader(self.listener.socket.fileno(), self._knock)
        elif self._watching and not wanted:
            self._loop.remove_reader(self.listener.socket.fileno())
        self._watching = wanted

    def _knock(self) -> None:
        if self._link is None or self._link.peer_is_gone():
            self._watch(False)
            self._timer = self._loop.call_later(self._options.deadline, self._context.cut)
            self._beside.start(self._context.attach, self._negotiated)
            return
        if self._link.ending:
            self._watch(False)  # the newcomer waits: `_gone` looks again
            return
        try:
            newcomer, _ = self.listener.socket.accept()
        except OSError as error:
            self._pause(error.errno or errno.EIO)
            return
        newcomer.close()
        self._link.client.log.provoked(logging.WARNING, "a second client is refused: this one is connected")

    def _negotiated(self, error: int) -> None:
        self._stop_timer()
        if error:
            self._pause(error)
            return
        self._watch(True)
        os.set_inheritable(self._context.poll_fd, False)
        self._link = link = Link(self._context, self._loop, self.name, self._gone)
        pid = peer_pid(link.socket)
        client = Connection(self._context, self._backend, self._options, self._migration, self._doorbells, link, pid)
        link.connect(client, self._options.deadline)

    def _pause(self, error: int) -> None:
        """Nobody was taken in: at once again, or after a while where descriptors or memory are out."""
        if error in _NOBODY:
            self._watch(True)
            return
        self._log.provoked(logging.WARNING, "a client was not taken in: %s", os.strerror(error))
        self._watch(error not in EXHAUSTED)
        if error in EXHAUSTED:
            self._timer = self._loop.call_later(PAUSE, self._watch, True)

    def _gone(self, link: Link) -> None:
        if link is self._link:
            self._link = None
        if not self._closing:
            self._watch(True)

    def _stop_negotiating(self) -> bool:
        self._stop_timer()
        if self._beside.busy:
            self._context.cut()
        return self._beside.join()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _dump(self, link: Link) -> dict[str, Any]:
        state = "waiting for an answer" if link.held else "negotiated"
        return {"state": state, "held": link.held, "peer_pid": link.client.peer_pid, **link.client.dump()}
