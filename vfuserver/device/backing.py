"""The file behind a mappable BAR: a memfd that is sealed before anybody else sees it.

Sealed against shrinking and growing, so that no client can cut it under our mapping (SIGBUS), and against further
seals. One file for the device's life. It must not know registers or regions.
"""

import fcntl
import mmap
import os
from contextlib import suppress

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Backing:
    """A sealed memfd of `size` bytes, mapped here. `fd` is its descriptor, `memory` its bytes."""

    def __init__(self, name: str, size: int) -> None:
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            self.memory = mmap.mmap(self.fd, size, mmap.MAP_SHARED)
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Closes the descriptor and the mapping; where somebody still uses that, it goes with them. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        with suppress(BufferError):
            self.memory.close()
