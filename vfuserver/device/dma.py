"""DMA as a device model sees it: the memory of whoever is connected, refused while the device may not master the bus.

Between a model and the client's memory stand COMMAND's bus-master bit (S2.15), the migration state (S3.9), the question
whether there is a client at all, and, if the model declares one, its own address translation (`AddressSpace`). All of
it is asked on every call. It must not know how the memory is reached.
"""

import errno
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from vfuserver import _core
from vfuserver._core import Gate
from vfuserver.device.address_space import AddressSpace, OnMiss, Translate, Translated
from vfuserver.device.run import CURRENT_RUN, Brake, Run
from vfuserver.errors import DmaError
from vfuserver.iommu import OnRevoke, Pieces, View
from vfuserver.vfio import Client, Memory

MAX_PASID: Final = (1 << 20) - 1
"""The widest process address space id (PCIe 5.0, 6.20)."""
_OPEN: Final = Gate.MASTER | Gate.RUNNING
_LEAVING: Final = _OPEN | Gate.QUIET
T = TypeVar("T")


class _Outside:
    """What stands for a run where a model's code runs outside of all: nothing holds it, so it is refused instead."""

    def __init__(self) -> None:
        self.brake = Brake()
        self.transfers = 0

    async def may_transfer(self) -> None:
        """At once."""


class Dma:
    """The client's memory by IOVA (bytes). Every call may raise DmaError.

    `errno` is ENODEV (no client, or the one that a job was started for is gone), EPERM (bus mastering off, or the
    mapping's permission), EFAULT (not mapped, or the client cut the file), EBUSY (the device is stopped), EIO (the
    client refused), EDEADLK (message DMA while a command waits for the answer: go on in a job), ENOENT (a pasid that
    nobody attached), or EINVAL where a call says so.

    What is awaited reaches all memory, by copy where it is mapped and by messages where it is not: use it in jobs. The
    other calls do not wait, are legal in hooks too, and raise EFAULT where only messages reach. An access to a hole or
    against the permission is refused before a byte of it moves; of a list, other pieces may be done when one fails.

    With a `pasid` an address is one of the space attached to it (S4.18).
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._client: Client | None = None
        self._memory: Memory | None = None
        self._space = AddressSpace()
        self._spaces: dict[int, AddressSpace] = {}
        self.outstanding = 0
        self._outside = _Outside()

    def attach(self, client: Client) -> None:
        """From now on this client's memory."""
        self._client = client
        self._choose()

    def detach(self) -> None:
        """No memory any more."""
        self._client = None
        self._choose()

    # -- copies

    async def read(self, iova: int, length: int, *, pasid: int | None = None) -> bytes:
        """Reads `length` bytes."""
        run = CURRENT_RUN.get() or self._outside  # as _counted(), without another coroutine: models mostly do this
        if run.brake.on:
            await run.may_transfer()
        memory = self._reach(pasid)
        self.outstanding += 1
        run.transfers += 1
        try:
            return await memory.read(iova, length)
        finally:
            self.outstanding -= 1
            run.transfers -= 1

    async def write(self, iova: int, data: bytes | bytearray | memoryview, *, pasid: int | None = None) -> None:
        """Writes all of `data`."""
        run = CURRENT_RUN.get() or self._outside
        if run.brake.on:
            await run.may_transfer()
        memory = self._reach(pasid)
        self.outstanding += 1
        run.transfers += 1
        try:
            await memory.write(iova, data)
        finally:
            self.outstanding -= 1
            run.transfers -= 1

    def read_now(self, iova: int, length: int, *, pasid: int | None = None) -> bytes:
        """Reads mapped memory at once."""
        return self._reach(pasid).read_now(iova, length)

    def write_now(self, iova: int, data: bytes | bytearray | memoryview, *, pasid: int | None = None) -> None:
        """Writes mapped memory at once."""
        self._reach(pasid).write_now(iova, data)

    async def readv(self, pieces: Pieces, *, pasid: int | None = None) -> bytes:
        """Reads a list of (iova, length); their bytes one after another."""
        return await self._counted(lambda memory: memory.readv(pieces), pasid)

    async def writev(self, pieces: Pieces, data: bytes | bytearray | memoryview, *, pasid: int | None = None) -> None:
        """Spreads `data` over a list of (iova, length), in no particular order; EINVAL unless they have as many
        bytes."""
        await self._counted(lambda memory: memory.writev(pieces, data), pasid)

    def readv_now(self, pieces: Pieces, *, pasid: int | None = None) -> bytes:
        """As readv(), from mapped memory at once."""
        return self._reach(pasid).readv_now(pieces)

    def writev_now(self, pieces: Pieces, data: bytes | bytearray | memoryview, *, pasid: int | None = None) -> None:
        """As writev(), to mapped memory at once."""
        self._reach(pasid).writev_now(pieces, data)

    async def copy(self, source: int, destination: int, length: int, *, pasid: int | None = None) -> None:
        """Copies `length` bytes from one IOVA to another; the ranges must not overlap."""
        await self._counted(lambda memory: memory.copy(source, destination, length), pasid)

    def copy_now(self, source: int, destination: int, length: int, *, pasid: int | None = None) -> None:
        """As copy(), where both are mapped, at once."""
        self._reach(pasid).copy_now(source, destination, length)

    # -- files

    async def preadv(self, fd: int, pieces: Pieces, offset: int, *, pasid: int | None = None) -> int:
        """Fills a list of (iova, length) from a file at `offset`, without a copy in between where memory is mapped.

        How many bytes: fewer at the end of the file. Also the file's own errno. 64 KiB or more are moved by a thread,
        so that the device goes on serving. When the caller is ended meanwhile (reset), the 2 MiB at most that is under
        way is waited for: afterwards nothing lands in memory any more, and `fd` may be closed.
        """
        return await self._counted(lambda memory: memory.preadv(fd, pieces, offset), pasid)

    async def pwritev(self, fd: int, pieces: Pieces, offset: int, *, pasid: int | None = None) -> int:
        """Writes a list of (iova, length) to a file, as preadv()."""
        return await self._counted(lambda memory: memory.pwritev(fd, pieces, offset), pasid)

    # -- rings: one access of `size` 1, 2, 4 or 8 bytes to mapped memory, naturally aligned, else EINVAL

    def load(self, iova: int, size: int, *, pasid: int | None = None) -> int:
        """The little-endian value there; what is read after it is no older (acquire)."""
        return self._reach(pasid).atomic(_core.LOAD, iova, size)

    def store(self, iova: int, size: int, value: int, *, pasid: int | None = None) -> None:
        """Stores a value (modulo 2**(8*size)); whoever sees it sees what was written before (release)."""
        self._reach(pasid).atomic(_core.STORE, iova, size, value)

    def swap(self, iova: int, size: int, value: int, *, pasid: int | None = None) -> int:
        """Stores a value; the one before."""
        return self._reach(pasid).atomic(_core.SWAP, iova, size, value)

    def fetch_add(self, iova: int, size: int, value: int, *, pasid: int | None = None) -> int:
        """Adds (modulo 2**(8*size)); the value before."""
        return self._reach(pasid).atomic(_core.ADD, iova, size, value)

    def fetch_or(self, iova: int, size: int, bits: int, *, pasid: int | None = None) -> int:
        """Sets bits; the value before."""
        return self._reach(pasid).atomic(_core.OR, iova, size, bits)

    def fetch_and(self, iova: int, size: int, bits: int, *, pasid: int | None = None) -> int:
        """Keeps these bits only; the value before."""
        return self._reach(pasid).atomic(_core.AND, iova, size, bits)

    def compare_exchange(self, iova: int, size: int, expected: int, value: int, *, pasid: int | None = None) -> int:
        """Stores `value` if `expected` is there; the value before, so it is done if that is `expected`."""
        return self._reach(pasid).atomic(_core.COMPARE, iova, size, value, expected)

    # -- views

    def pin(
        self,
        iova: int,
        length: int,
        *,
        writable: bool = False,
        on_revoke: OnRevoke | None = None,
        pasid: int | None = None,
    ) -> View:
        """A view of mapped memory in place: `with self.dma.pin(iova, length) as view: view.memory[0:4]` (S4.12).

        A writable one needs both permissions, and counts as written all over. `on_revoke(view)` is called when the
        client wants the range back: release the view soon; what is kept is revoked and shows zeros. Also ENOSPC (too
        many views), EINVAL (empty, areas that share a page, or translated pages that do not follow each other).
        """
        return self._reach(pasid).pin(iova, length, writable, on_revoke)

    # -- the device's own translation

    @property
    def translate(self) -> Translate | None:
        """The hook that turns the device's addresses into IOVAs (S4.17), see AddressSpace; None: they are IOVAs."""
        return self._space.translate

    @translate.setter
    def translate(self, hook: Translate | None) -> None:
        self._space.translate = hook
        self._choose()

    @property
    def on_miss(self) -> OnMiss | None:
        """The hook that is asked when an address leads nowhere (S4.19), see AddressSpace; None: EFAULT."""
        return self._space.on_miss

    @on_miss.setter
    def on_miss(self, hook: OnMiss | None) -> None:
        self._space.on_miss = hook
        self._choose()

    def attach_pasid(self, pasid: int, space: AddressSpace) -> None:
        """Calls with this pasid (20 bits, else EINVAL) reach `space` from now on, instead of what was attached; a reset
        does not detach it, on_reset() may."""
        if not 0 <= pasid <= MAX_PASID:
            raise DmaError(errno.EINVAL, f"pasid {pasid:#x}, must be at most {MAX_PASID:#x}")
        self._spaces[pasid] = space

    def detach_pasid(self, pasid: int) -> None:
        """Calls with this pasid are ENOENT from now on. ENOENT if they are already."""
        self._attached(pasid)
        del self._spaces[pasid]

    def drain(self) -> None:
        """Returns when no copy is under way: after the gate was closed, for who promises that DMA has ended (S2.33)."""
        if self._client is not None:
            self._client.memory.drain()

    # -- inside

    def _choose(self) -> None:
        """What a call without a pasid reaches, known beforehand: most models have no translation of their own."""
        memory = self._client.memory if self._client is not None else None
        self._memory = Translated(memory, self._space) if memory is not None and self._space.in_use else memory

    def _reach(self, pasid: int | None) -> Memory:
        """What a call may use now. Every call comes here, so what is mostly true is one question."""
        run, memory = CURRENT_RUN.get(), self._memory
        if memory is None or not self._gate.shows(_LEAVING, _OPEN) or (run is not None and run.client_lost):
            raise self._refusal(run)
        return memory if pasid is None else self._space_of(pasid)

    def _refusal(self, run: Run | None) -> DmaError:
        if self._client is None:
            return DmaError(errno.ENODEV, "no client is connected")
        if run is not None and run.client_lost:
            return DmaError(errno.ENODEV, f"the client that {run.what} was started for is gone")
        if not self._gate.word & Gate.MASTER:
            return DmaError(errno.EPERM, "bus mastering is off (COMMAND bit 2)")
        return DmaError(errno.EBUSY, "the device is stopped")

    def _space_of(self, pasid: int) -> Memory:
        if self._client is None:
            raise self._refusal(None)
        return Translated(self._client.memory, self._attached(pasid))

    def _attached(self, pasid: int) -> AddressSpace:
        space = self._spaces.get(pasid)
        if space is None:
            raise DmaError(errno.ENOENT, f"pasid {pasid:#x} is not attached: attach_pasid() first")
        return space

    async def _counted(self, access: Callable[[Memory], Coroutine[Any, Any, T]], pasid: int | None) -> T:
        """What is awaited: a job waits here while the device stops, and what has begun is counted (S3.10)."""
        run = CURRENT_RUN.get() or self._outside
        if run.brake.on:
            await run.may_transfer()
        memory = self._reach(pasid)
        self.outstanding += 1
        run.transfers += 1
        try:
            return await access(memory)
        finally:
            self.outstanding -= 1
            run.transfers -= 1
