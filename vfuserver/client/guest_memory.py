"""A guest's memory, and what of it a server may reach by DMA_READ and DMA_WRITE.

It must not know sockets; `GuestMap.serve` answers the server's commands as QEMU does: EFAULT where nothing is mapped,
EPERM without permission, E2BIG above the limit that the client stated. Memory that has to ask somebody else first, such
as another device's region, answers by an awaitable, and then so does `serve`.
"""

import errno
import mmap
import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import isawaitable
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from vfuserver.client.dirty_log import DirtyLog
from vfuserver.errors import CommandError
from vfuserver.session.commands.dma_map import DmaMapFlags
from vfuserver.session.commands.dma_read import DmaRead
from vfuserver.session.commands.dma_write import DmaWrite
from vfuserver.session.descriptors import Descriptors
from vfuserver.session.dma_layout import OLD
from vfuserver.wire import LayoutError

Answer: TypeAlias = bytes | Coroutine[Any, Any, bytes]
"""A reply's payload, or what returns it."""


class Memory(Protocol):
    """What can be mapped. Both raise CommandError, at once or when they are awaited."""

    def read(self, offset: int, length: int) -> bytes | Awaitable[bytes]:
        """`length` bytes at `offset`."""

    def write(self, offset: int, data: bytes) -> Awaitable[None] | None:
        """Stores `data` at `offset`."""


class GuestMemory:
    """`size` bytes of memory behind a memfd, which a server can map too."""

    def __init__(self, size: int, name: str = "guest-memory") -> None:
        self.size = size
        self.fd = os.memfd_create(name)
        os.ftruncate(self.fd, size)
        self.buffer = mmap.mmap(self.fd, size)

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`."""
        return self.buffer[offset : offset + length]

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Stores `data` at `offset`."""
        self.buffer[offset : offset + len(data)] = bytes(data)

    def close(self) -> None:
        """Unmaps and closes it. Idempotent."""
        if self.fd >= 0:
            self.buffer.close()
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapped range: bytes [iova, iova + size) are `memory` from `offset` on."""

    iova: int
    size: int
    memory: Memory
    offset: int
    access: DmaMapFlags

    def inside(self, iova: int, size: int) -> bool:
        """True if it lies wholly inside the range."""
        return iova <= self.iova and self.iova + self.size <= iova + size


class GuestMap:
    """The ranges that a client has mapped, by IOVA, and the answers to the server's DMA messages."""

    def __init__(self) -> None:
        self._mappings: list[Mapping] = []
        self.max_transfer = 1048576
        """Largest `count` that is served, bytes."""
        self.bare_write_reply = False
        """Answer DMA_WRITE with the header alone, as the first upstream QEMU client does (S0.14)."""
        self.old_layout = False
        """Have data at message byte 28, and the last four bytes mean nothing, as the same client does."""
        self.on_access: Callable[[str, int, int], None] | None = None
        """Told of every DMA message that moves bytes: (command, address, count)."""
        self.log: DirtyLog | None = None
        """Where DMA_WRITE is noted while the device's writes are logged (S3.20)."""

    def add(self, mapping: Mapping) -> None:
        """A range may be reached from now on."""
        self._mappings.append(mapping)

    def discard(self, mapping: Mapping) -> None:
        """It may not any more."""
        self._mappings.remove(mapping)

    def remove(self, iova: int, size: int) -> None:
        """Drops every range wholly inside this one."""
        self._mappings = [mapping for mapping in self._mappings if not mapping.inside(iova, size)]

    def serve(self, number: int, message_id: int, flags: int, payload: bytes, fds: list[int]) -> Answer:
        """The reply to a command of the server. CommandError, at once or when it is awaited."""
        with Descriptors(fds):
            if number not in (DmaRead.number, DmaWrite.number):
                raise CommandError(errno.ENOSYS, f"command {number} of a server is not known")
            if fds:
                raise CommandError(errno.EINVAL, "DMA messages carry no descriptors")
            return self._read(payload) if number == DmaRead.number else self._write(payload)

    def _read(self, payload: bytes) -> Answer:
        address, count = self._arguments(DmaRead.name, payload)
        pieces = self._pieces(address, count, "READ")
        steps = [partial(piece.memory.read, piece.offset + at, size) for piece, at, size in pieces]
        return _in_turn(steps, lambda parts: self._read_reply(address, count, b"".join(parts)))

    def _read_reply(self, address: int, count: int, data: bytes) -> bytes:
        if self.old_layout:
            return OLD.request(address, count, memoryview(data))
        return DmaRead.reply.build(address=address, data=data)

    def _write(self, payload: bytes) -> Answer:
        address, count = self._arguments(DmaWrite.name, payload)
        data = payload[OLD.head.size if self.old_layout else DmaWrite.request.size :]
        if len(data) < count:
            raise CommandError(errno.EINVAL, f"{len(data)} bytes for a DMA_WRITE of {count}")
        steps = []
        for piece, at, size in self._pieces(address, count, "WRITE"):
            steps.append(partial(piece.memory.write, piece.offset + at, data[:size]))
            data = data[size:]
        return _in_turn(steps, lambda _: self._write_reply(address, count))

    def _write_reply(self, address: int, count: int) -> bytes:
        if self.log is not None:
            self.log.mark(address, count)
        return b"" if self.bare_write_reply else DmaWrite.reply.pack(address, count)

    def _arguments(self, name: str, payload: bytes) -> tuple[int, int]:
        try:
            address, count = (OLD.head if self.old_layout else DmaRead.request).unpack(payload)
        except LayoutError as error:
            raise CommandError(errno.EINVAL, str(error)) from error
        if count > self.max_transfer:
            raise CommandError(errno.E2BIG, f"{name} of {count} bytes, must be at most {self.max_transfer}")
        if self.on_access and count:
            self.on_access(name, address, count)
        return address, count

    def _pieces(self, address: int, count: int, access: str) -> list[tuple[Mapping, int, int]]:
        """The access cut at mapping borders: (mapping, offset in it, length)."""
        pieces = []
        while count:
            mapping = self._at(address)
            if not mapping.access & DmaMapFlags[access]:
                raise CommandError(errno.EPERM, f"{address:#x} does not allow {access}")
            at = address - mapping.iova
            size = min(count, mapping.size - at)
            pieces.append((mapping, at, size))
            address, count = address + size, count - size
        return pieces

    def _at(self, address: int) -> Mapping:
        for mapping in self._mappings:
            if mapping.iova <= address < mapping.iova + mapping.size:
                return mapping
        raise CommandError(errno.EFAULT, f"{address:#x} is not mapped")


def _in_turn(steps: Sequence[Callable[[], Any]], reply: Callable[[list[Any]], bytes]) -> Answer:
    """`reply` of what the steps return; a coroutine from the first one on that has to be waited for."""
    results: list[Any] = []
    for number, step in enumerate(steps):
        result = step()
        if isawaitable(result):
            return _go_on(result, steps[number + 1 :], results, reply)
        results.append(result)
    return reply(results)


async def _go_on(
    waited_for: Awaitable[Any],
    steps: Sequence[Callable[[], Any]],
    results: list[Any],
    reply: Callable[[list[Any]], bytes],
) -> bytes:
    results.append(await waited_for)
    for step in steps:
        result = step()
        results.append(await result if isawaitable(result) else result)
    return reply(results)
