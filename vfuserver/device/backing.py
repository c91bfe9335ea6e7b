"""The file behind a mappable BAR: a memfd that is sealed before anybody else sees it.

Sealed against shrinking and growing, so that no client can cut it under our mapping (SIGBUS), and against further
seals. One file for the device's life, also where that goes on in another process. It must not know registers or
regions.
"""

import fcntl
import mmap
import os
from contextlib import suppress
from typing import Self

from vfuserver import _core

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Backing:
    """A sealed memfd of `size` bytes in whole pages, mapped here. `fd` is its descriptor, `memory` its bytes."""

    shared = False
    """True once it is a file that another process has made."""

    def __init__(self, name: str, size: int) -> None:
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            self.memory = mmap.mmap(self.fd, size, mmap.MAP_SHARED)
        except BaseException:
            os.close(self.fd)
            raise

    @classmethod
    def of(cls, fd: int) -> Self:
        """The file that `fd` is of, by a descriptor of its own. OSError: it cannot be mapped."""
        made = cls.__new__(cls)
        made.fd = os.dup(fd)
        try:
            made.memory = mmap.mmap(made.fd, os.fstat(made.fd).st_size, mmap.MAP_SHARED)
        except BaseException:
            os.close(made.fd)
            raise
        return made

    def become(self, fd: int) -> None:
        """Another file of the same size takes the place of this one, for every view of `memory` and whoever knows the
        number of the descriptor. OSError: it stays this one, empty."""
        self.memory.madvise(mmap.MADV_REMOVE)  # the mmap object keeps a descriptor of the old file: an empty one
        _core.remap(self.memory, fd)
        os.dup2(fd, self.fd, inheritable=False)
        self.shared = True

    def let_go(self) -> None:
        """Another process goes on with the file: whoever still writes here writes to memory that nobody sees."""
        fd = os.memfd_create("let go", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, len(self.memory))
            _core.remap(self.memory, fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Closes the descriptor and the mapping; where somebody still uses that, it goes with them. Idempotent."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
        with suppress(BufferError):
            self.memory.close()
