"""The peer that somebody would write in Python today: libvfio-user through cffi's ABI mode, BAR0 with a callback.

`python -m benchmarks.libvfio_user_cffi LIBRARY SOCKET sleep|poll` prints one line when it listens, and serves one
client after another; until a message comes it sleeps, or calls vfu_run_ctx without a pause. Written from the documented
calls alone. It must not use vfuserver: it stands for what is there without it.
"""

import errno
import select
import struct
import sys
from typing import Any, Final

DECLARATIONS: Final = """
typedef ssize_t access_callback(void *, char *, size_t, int64_t, bool);
void *vfu_create_ctx(int, const char *, int, void *, int);
int vfu_pci_init(void *, int, int, int);
void vfu_pci_set_id(void *, uint16_t, uint16_t, uint16_t, uint16_t);
int vfu_setup_region(void *, int, size_t, access_callback *, int, void *, uint32_t, int, uint64_t);
int vfu_realize_ctx(void *);
int vfu_get_poll_fd(void *);
int vfu_attach_ctx(void *);
int vfu_run_ctx(void *);
"""
SOCK = PCI = CONVENTIONAL = NORMAL = BAR0 = 0
NON_BLOCKING: Final = 1
READ_WRITE_MEMORY: Final = 7
SIZE: Final = 4096
REGISTER: Final = struct.Struct("<I")
PASSING: Final = (errno.EAGAIN, errno.EINTR)


class Peer:
    """A context of the library's, and the registers behind its region, one Python integer for each."""

    def __init__(self, library: str, path: str, non_blocking: bool) -> None:
        from cffi import FFI

        self._ffi: Any = FFI()
        self._ffi.cdef(DECLARATIONS)
        self._library: Any = self._ffi.dlopen(library)
        self._registers = [0] * (SIZE // REGISTER.size)
        self._callback = self._ffi.callback("access_callback", self._on_access)
        self._context = self._realized(path, NON_BLOCKING if non_blocking else 0)

    def _realized(self, path: str, flags: int) -> Any:
        call, none = self._library, self._ffi.NULL
        context = call.vfu_create_ctx(SOCK, path.encode(), flags, none, PCI)
        if context == none or call.vfu_pci_init(context, CONVENTIONAL, NORMAL, 0):
            raise OSError(self._ffi.errno, "libvfio-user refused the context")
        call.vfu_pci_set_id(context, 0x1234, 0x7E58, 0x1234, 1)
        if call.vfu_setup_region(
            context, BAR0, SIZE, self._callback, READ_WRITE_MEMORY, none, 0, -1, 0
        ) or call.vfu_realize_ctx(context):
            raise OSError(self._ffi.errno, "libvfio-user refused the region")
        return context

    def _on_access(self, _context: Any, data: Any, count: int, offset: int, write: bool) -> int:
        place = self._ffi.buffer(data, count)
        if write:
            (self._registers[offset >> 2],) = REGISTER.unpack(place)
        else:
            place[:] = REGISTER.pack(self._registers[offset >> 2])
        return count

    def serve(self) -> None:
        """Clients, one after another, until the process is told to end. OSError: the library accepts none."""
        run, context = self._library.vfu_run_ctx, self._context
        while True:
            self._await_client()
            if self._library.vfu_attach_ctx(context) == 0:
                while run(context) >= 0 or self._ffi.errno == errno.EINTR:
                    pass
            elif self._ffi.errno not in PASSING:
                raise OSError(self._ffi.errno, "libvfio-user attached no client")

    def _await_client(self) -> None:
        waiting = select.poll()
        waiting.register(self._library.vfu_get_poll_fd(self._context), select.POLLIN)
        waiting.poll()


if __name__ == "__main__":
    peer = Peer(sys.argv[1], sys.argv[2], sys.argv[3] == "poll")
    print("ready", flush=True)
    peer.serve()
