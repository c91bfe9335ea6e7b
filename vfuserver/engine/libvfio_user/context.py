"""One vfu_ctx_t: made on our listening socket, run message by message, destroyed. Every call of the library's for a
connection is made here, or on `handle` by the part that it belongs to.

The library binds a socket of its own and cannot be given one. So it binds in a folder that is gone a moment later, and
our listening socket is put over its descriptor (dup2): file modes, stale sockets and inherited sockets are `listen`'s,
as with the default engine. It must not know devices.
"""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vfuserver.engine.libvfio_user import api
from vfuserver.engine.libvfio_user.calling import Refuse, errno_of, guarded
from vfuserver.engine.libvfio_user.twin import open_descriptors, twin_among
from vfuserver.errors import UsageError


class Context:
    """One context, non-blocking. `handle` is its vfu_ctx_t *."""

    def __init__(self, library: api.Library, who: str, refuse: Refuse) -> None:
        """UsageError: it cannot be made."""
        self.library = library
        self.ffi, self.lib = library.ffi, library.lib
        self._who, self._refuse = who, refuse
        self._kept: list[Any] = []  # what C may call
        self.twin = -1
        """The library's twin socket with its client, or -1."""
        with TemporaryDirectory(prefix="vfu-") as folder:
            path = os.fsencode(Path(folder) / "s")
            flags = api.ATTACH_NON_BLOCKING
            self.handle = self.lib.vfu_create_ctx(api.TRANSPORT_SOCKET, path, flags, self.ffi.NULL, api.DEVICE_PCI)
        if self.handle == self.ffi.NULL:
            raise UsageError(f"{who}: libvfio-user makes no context: {os.strerror(self.ffi.errno)}")

    def callback(self, signature: str, function: Callable[..., Any], what: str) -> Any:
        """A guarded callback that lives as long as the context; its first argument, the context, is not passed on."""
        made = guarded(self.ffi, signature, lambda _context, *rest: function(*rest), what, self._refuse)
        self._kept.append(made)
        return made

    def access_callback(
        self, function: Callable[[Any, int, int, bool], int], failed: Callable[[int, BaseException], None]
    ) -> Any:
        """As `callback`, for a region's accesses (buffer, count, offset, write): `failed(offset, error)` is told."""

        def call(_context: Any, buffer: Any, count: int, at: int, write: bool) -> int:
            try:
                return function(buffer, count, at, write)
            except BaseException as error:
                failed(at, error)
                self.ffi.errno = errno_of(error)
                return -1

        made = self.ffi.callback("vfu_region_access_cb_t *", call)
        self._kept.append(made)
        return made

    def must(self, result: int, what: str) -> None:
        """UsageError unless a call of the set-up has succeeded."""
        if result < 0:
            raise UsageError(f"{self._who}: libvfio-user refuses {what}: {os.strerror(self.ffi.errno)}")

    def listen_on(self, listener: socket.socket) -> None:
        """Whoever connects to `listener`, which stays the caller's, is taken in from now on."""
        self.must(self.lib.vfu_realize_ctx(self.handle), "the device")
        self._listening = self.poll_fd
        os.dup2(listener.fileno(), self._listening, inheritable=False)

    @property
    def poll_fd(self) -> int:
        """The connection's descriptor or, without one, the listening one; the library's."""
        return int(self.lib.vfu_get_poll_fd(self.handle))

    @property
    def connected(self) -> bool:
        """True while the library has a connection."""
        return self.poll_fd != self._listening

    def attach(self) -> int:
        """Accepts and negotiates, which blocks until the client has said VERSION: 0 or an errno."""
        before = open_descriptors()
        if self.lib.vfu_attach_ctx(self.handle) < 0:
            return int(self.ffi.errno)
        self.twin = twin_among(open_descriptors() - before)
        return 0

    def cut(self) -> None:
        """Ends the connection under a call that blocks in it."""
        if self.connected:
            for fd in (self.poll_fd, self.twin):
                if fd >= 0:
                    with socket.socket(fileno=os.dup(fd)) as end:
                        shut(end)

    def run(self) -> int:
        """Serves one message: 0 or an errno; EBUSY: `quiesced` goes on with it, ENOTCONN: the client has gone."""
        return 0 if self.lib.vfu_run_ctx(self.handle) >= 0 else int(self.ffi.errno)

    def quiesced(self) -> None:
        """Goes on with the message that was put off."""
        self.lib.vfu_device_quiesced(self.handle, 0)

    def scatter(self, iova: int, length: int, prot: int) -> Any | None:
        """The library's handle of a range inside one DMA region, valid until the region goes; None with its errno."""
        entry = self.ffi.new("char[]", int(self.lib.dma_sg_size()))
        found = self.lib.vfu_addr_to_sgl(self.handle, iova, length, entry, 1, prot)
        return entry if found == 1 else None

    def destroy(self) -> None:
        """Ends the connection, with its callbacks, and frees everything. Idempotent."""
        if self.handle is not None:
            self.lib.vfu_destroy_ctx(self.handle)
            self.handle = None
            self._kept.clear()


def shut(end: socket.socket) -> None:
    """Shuts a connection both ways; one that has ended is as good."""
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
