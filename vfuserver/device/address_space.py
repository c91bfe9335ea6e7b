"""A device's own addresses: software stage 1 in front of the client's memory, for models with page tables or PASIDs.

An access is cut where `translate` says, and every piece is looked up in stage 2 before anything is moved; where either
leads nowhere, `on_miss` is asked, which may make it lead somewhere. What comes out is a list of IOVA pieces, and the
access itself is then one call of the memory behind. It must not know clients, gates or page table formats.
"""

import asyncio
import errno
import inspect
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import Final, TypeAlias

from vfuserver._core import LOAD
from vfuserver.errors import DmaError
from vfuserver.iommu import OnRevoke, Pieces, View
from vfuserver.vfio import Memory

Translate: TypeAlias = Callable[[Memory, int, bool], tuple[int, int] | None]
"""translate(memory, address, write) -> (iova, how many bytes from there on belong together), or None: a miss. `memory`
is stage 2, so page tables are read by `memory.read_now`. DmaError(EPERM) refuses the access."""
OnMiss: TypeAlias = Callable[[Memory, int, bool], bool | Awaitable[bool]]
"""on_miss(memory, address, write) -> True: look again; False: the access fails with EFAULT. It may be async."""

MISSES: Final = 16
"""How often in a row a miss hook may say "look again" for one address."""

MAX_PIECES: Final = 1 << 16
"""In how many pieces one access may be cut: a guest names lengths and writes page tables, and must not keep us."""


@dataclass
class AddressSpace:
    """Where a device's addresses lead: through `translate` (None: they are IOVAs), then into `memory` (None: that of
    the connected client), and who is asked on a miss, for at most `miss_timeout` seconds per access (S4.17-S4.19)."""

    translate: Translate | None = None
    on_miss: OnMiss | None = None
    miss_timeout: float = 1.0
    memory: Memory | None = None

    @property
    def in_use(self) -> bool:
        """False while it is the client's memory itself."""
        return self.translate is not None or self.on_miss is not None or self.memory is not None


_Miss: TypeAlias = tuple[int, bool, DmaError]
_Walk: TypeAlias = Generator[_Miss, bool, list[tuple[int, int]]]


class Translated:
    """A `vfio.Memory` whose addresses go through an AddressSpace."""

    def __init__(self, memory: Memory, space: AddressSpace) -> None:
        self._space = space
        self._behind = space.memory or memory

    # -- Memory

    async def read(self, iova: int, length: int) -> bytes:
        """As Memory.read."""
        return await self.readv([(iova, length)])

    async def write(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """As Memory.write."""
        await self.writev([(iova, memoryview(data).nbytes)], data)

    async def readv(self, pieces: Pieces) -> bytes:
        """As Memory.readv."""
        return await self._behind.readv(await self._resolve(pieces, False))

    async def writev(self, pieces: Pieces, data: bytes | bytearray | memoryview) -> None:
        """As Memory.writev."""
        await self._behind.writev(await self._resolve(pieces, True), data)

    async def copy(self, source: int, destination: int, length: int) -> None:
        """As Memory.copy."""
        sources = await self._resolve([(source, length)], False)
        for step in _steps(sources, await self._resolve([(destination, length)], True)):
            await self._behind.copy(*step)

    async def preadv(self, fd: int, pieces: Pieces, offset: int) -> int:
        """As Memory.preadv."""
        return await self._behind.preadv(fd, await self._resolve(pieces, True), offset)

    async def pwritev(self, fd: int, pieces: Pieces, offset: int) -> int:
        """As Memory.pwritev."""
        return await self._behind.pwritev(fd, await self._resolve(pieces, False), offset)

    def read_now(self, iova: int, length: int) -> bytes:
        """As Memory.read_now."""
        return self.readv_now([(iova, length)])

    def write_now(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """As Memory.write_now."""
        self.writev_now([(iova, memoryview(data).nbytes)], data)

    def readv_now(self, pieces: Pieces) -> bytes:
        """As Memory.readv_now."""
        return self._behind.readv_now(self._resolve_now(pieces, False))

    def writev_now(self, pieces: Pieces, data: bytes | bytearray | memoryview) -> None:
        """As Memory.writev_now."""
        self._behind.writev_now(self._resolve_now(pieces, True), data)

    def copy_now(self, source: int, destination: int, length: int) -> None:
        """As Memory.copy_now."""
        sources = self._resolve_now([(source, length)], False)
        for step in _steps(sources, self._resolve_now([(destination, length)], True)):
            self._behind.copy_now(*step)

    def atomic(self, operation: int, iova: int, size: int, operand: int = 0, expected: int = 0) -> int:
        """As Memory.atomic."""
        iova = self._one(iova, size, operation != LOAD)
        return self._behind.atomic(operation, iova, size, operand, expected)

    def pin(self, iova: int, length: int, writable: bool, on_revoke: OnRevoke | None = None) -> View:
        """As Memory.pin."""
        return self._behind.pin(self._one(iova, length, writable), length, writable, on_revoke)

    def check(self, iova: int, length: int, write: bool) -> None:
        """As Memory.check."""
        self._resolve_now([(iova, length)], write)

    def drain(self) -> None:
        """As Memory.drain."""
        self._behind.drain()

    # -- addresses

    async def _resolve(self, pieces: Pieces, write: bool) -> list[tuple[int, int]]:
        walk = self._walk(pieces, write)
        try:
            miss = next(walk)
            async with asyncio.timeout(self._space.miss_timeout):
                while True:
                    answer = self._ask(miss)
                    miss = walk.send(await answer if inspect.isawaitable(answer) else answer)
        except StopIteration as end:
            return _joined(end.value)
        except TimeoutError:
            text = f"address {miss[0]:#x}: its miss was not settled in {self._space.miss_timeout} s"
            raise DmaError(errno.EFAULT, text) from None

    def _resolve_now(self, pieces: Pieces, write: bool) -> list[tuple[int, int]]:
        walk = self._walk(pieces, write)
        try:
            miss = next(walk)
            while True:
                miss = walk.send(self._answer_now(miss))
        except StopIteration as end:
            return _joined(end.value)

    def _one(self, address: int, length: int, write: bool) -> int:
        """The IOVA of an access that cannot be cut."""
        pieces = self._resolve_now([(address, length)], write)
        if len(pieces) != 1:
            text = f"address {address:#x}+{length:#x} leads to {len(pieces)} pieces, must be one: go piece by piece"
            raise DmaError(errno.EINVAL, text)
        return pieces[0][0]

    def _walk(self, pieces: Pieces, write: bool) -> _Walk:
        """Yields misses, is sent what the hook says, and returns the IOVA pieces."""
        found: list[tuple[int, int]] = []
        for start, size in pieces:
            address, end, misses = start, start + size, 0
            while address < end:
                try:
                    iova, count = self._step(address, end - address, write)
                except DmaError as error:
                    misses += 1
                    if error.errno != errno.EFAULT or misses > MISSES or not (yield address, write, error):
                        raise
                    continue
                if len(found) == MAX_PIECES:
                    text = f"an access that goes beyond {MAX_PIECES} pieces (at {address:#x}), must be cut into several"
                    raise DmaError(errno.EINVAL, text)
                found.append((iova, count))
                address, misses = address + count, 0
        return found

    def _step(self, address: int, length: int, write: bool) -> tuple[int, int]:
        """The IOVA of an address and how far it goes. DmaError(EFAULT): a miss."""
        iova, count = address, length
        if self._space.translate is not None:
            translation = self._space.translate(self._behind, address, write)
            if translation is None or translation[1] <= 0:
                raise DmaError(errno.EFAULT, f"address {address:#x} has no translation")
            iova, count = translation[0], min(translation[1], length)
        self._behind.check(iova, count, write)
        return iova, count

    def _ask(self, miss: _Miss) -> bool | Awaitable[bool]:
        address, write, error = miss
        if self._space.on_miss is None:
            raise error
        return self._space.on_miss(self._behind, address, write)

    def _answer_now(self, miss: _Miss) -> bool:
        answer = self._ask(miss)
        if not inspect.isawaitable(answer):
            return answer
        if inspect.iscoroutine(answer):
            answer.close()
        text = f"address {miss[0]:#x}: its miss hook must be waited for: await read() or write() in a job first"
        raise DmaError(errno.EFAULT, text)


def _joined(pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same with neighbours made one."""
    joined: list[tuple[int, int]] = []
    for iova, length in pieces:
        if joined and sum(joined[-1]) == iova:
            joined[-1] = joined[-1][0], joined[-1][1] + length
        else:
            joined.append((iova, length))
    return joined


def _steps(sources: list[tuple[int, int]], destinations: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(source, destination, length) where both go on without a gap."""
    steps = []
    left, right = list(reversed(sources)), list(reversed(destinations))
    while left and right:
        (source, have), (destination, room) = left.pop(), right.pop()
        count = min(have, room)
        steps.append((source, destination, count))
        if have > count:
            left.append((source + count, have - count))
        if room > count:
            right.append((destination + count, room - count))
    return steps
