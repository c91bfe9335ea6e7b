"""A client in the same process: real memory behind a real IOVA table, real eventfds, no connection.

It is what a session gives a device (`vfio.Client`), for tests that drive a Backend through its contract. It must not
know any device.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterable
from contextlib import suppress

from vfuserver import _core
from vfuserver._core import PROT_READ, PROT_WRITE, Gate, Ioas
from vfuserver.errors import DmaError
from vfuserver.iommu import Access, MessagePort
from vfuserver.vfio import Backend, Later, PciIrq


class NoMessages:
    """The port of a client whose memory is all mapped."""

    async def read(self, iova: int, length: int) -> bytes:
        """Never possible."""
        raise DmaError(errno.EFAULT, f"{iova:#x}+{length:#x}: this client takes no messages")

    async def write(self, iova: int, data: memoryview) -> None:
        """Never possible."""
        raise DmaError(errno.EFAULT, f"{iova:#x}+{len(data):#x}: this client takes no messages")


class LocalMemory(Access):
    """Guest memory in memfds, mapped into an Ioas."""

    def __init__(self, gate: Gate | None = None, port: MessagePort | None = None, who: str = "device") -> None:
        """`port` is who answers for areas that are added without a file; nobody, if it is None."""
        super().__init__(Ioas(gate), port or NoMessages(), who)
        self._memory_files: dict[int, mmap.mmap] = {}

    def add(self, iova: int, size: int, prot: int = PROT_READ | PROT_WRITE) -> mmap.mmap:
        """Maps `size` bytes (pages) of a new file at `iova` and returns the client's own view of them."""
        fd = os.memfd_create("client", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            self.ioas.map(iova, size, prot, fd)
            view = self._memory_files[iova] = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        return view

    def remove(self, iova: int, size: int) -> None:
        """Unmaps every area inside the range."""
        self.ioas.unmap(iova, size)

    def close(self) -> None:
        """Unmaps everything."""
        self.detach()
        self.ioas.clear()
        for view in self._memory_files.values():
            view.close()


class LocalInterrupts:
    """Eventfds by (index, vector), armed and masked as SET_IRQS does it."""

    def __init__(self) -> None:
        self._fds: dict[tuple[int, int], int] = {}
        self._masked: set[tuple[int, int]] = set()

    def armed(self, index: int) -> bool:
        """As Interrupts.armed."""
        return any(at == index for at, _ in self._fds)

    def trigger(self, index: int, vector: int) -> bool:
        """As Interrupts.trigger."""
        fd = self._fds.get((index, vector), -1)
        if fd < 0 or (index, vector) in self._masked:
            return False
        _core.signal(fd)
        return True

    def arm(self, index: int, vectors: Iterable[int]) -> None:
        """Gives vectors eventfds."""
        for key in ((index, vector) for vector in vectors):
            if key not in self._fds:
                self._fds[key] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def disarm(self, index: int) -> None:
        """Takes all eventfds of an index away."""
        for key in [key for key in self._fds if key[0] == index]:
            os.close(self._fds.pop(key))

    def mask(self, index: int, vector: int, masked: bool) -> None:
        """SET_IRQS MASK and UNMASK."""
        (self._masked.add if masked else self._masked.discard)((index, vector))

    def taken(self, index: int, vector: int = 0) -> int:
        """How often the vector was signalled since the last question."""
        with suppress(BlockingIOError):
            return os.eventfd_read(self._fds[index, vector])
        return 0

    def close(self) -> None:
        """Closes every eventfd."""
        for index in PciIrq:
            self.disarm(index)


class LocalClient:
    """A client of one backend. A context manager: it attaches on entry and detaches on exit."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.memory = LocalMemory(backend.gate, who=backend.name)
        self.interrupts = LocalInterrupts()
        self.peer_pid: int | None = None

    def __enter__(self) -> LocalClient:
        self.backend.attach(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def enable(self, command: int = 0x0007) -> None:
        """Writes COMMAND, as a driver does first: I/O, memory and bus mastering."""
        self.write_config(0x04, command.to_bytes(2, "little"))

    def arm(self, index: int, count: int = 1) -> None:
        """SET_IRQS with eventfds for the first `count` vectors."""
        self.interrupts.arm(index, range(count))
        self.backend.interrupts_ready(index, 0, count)

    def mask(self, index: int, vector: int = 0) -> None:
        """SET_IRQS MASK."""
        self.interrupts.mask(index, vector, True)

    def unmask(self, index: int, vector: int = 0) -> None:
        """SET_IRQS UNMASK."""
        self.interrupts.mask(index, vector, False)
        self.backend.interrupts_ready(index, vector, 1)

    def taken(self, index: int, vector: int = 0) -> int:
        """How often a vector was signalled since the last question."""
        return self.interrupts.taken(index, vector)

    def read(self, region: int, offset: int, width: int = 4) -> int:
        """A REGION_READ of a little-endian value."""
        table = self.backend.regions[region].table
        assert table is not None
        return int.from_bytes(table.read(offset, width), "little")

    def write(self, region: int, offset: int, value: int, width: int = 4) -> None:
        """A REGION_WRITE of a little-endian value."""
        table = self.backend.regions[region].table
        assert table is not None
        table.write(offset, value.to_bytes(width, "little"))

    def read_config(self, offset: int, count: int) -> bytes:
        """A REGION_READ of configuration space."""
        access = self.backend.regions[7].access
        assert access is not None
        data = access(offset, count, None)
        assert isinstance(data, bytes)
        return data

    def write_config(self, offset: int, data: bytes) -> Later | None:
        """A REGION_WRITE of configuration space; a Later is what its answer would wait for."""
        access = self.backend.regions[7].access
        assert access is not None
        later = access(offset, len(data), data)
        assert not isinstance(later, bytes)
        return later

    def close(self) -> None:
        """The connection ends: the backend is detached, memory and eventfds go. Idempotent."""
        self.backend.detach()
        self.memory.close()
        self.interrupts.close()
