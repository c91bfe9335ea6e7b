"""A BAR as a device class declares it, and as an instance holds it.

A Bar is a register map with a place in configuration space and, for memory that clients may map, a file behind it.
It must not know devices, sessions or who maps what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, Self, overload

from vfuserver._core import Gate, Table
from vfuserver.device.backing import Backing
from vfuserver.errors import CommandError, DeclarationError
from vfuserver.pci.bar import BarKind, BarLayout
from vfuserver.registers import MemoryWindow, RegisterMap
from vfuserver.vfio import MmapArea, Region, RegionFlags

if TYPE_CHECKING:
    from vfuserver._core import ReadHook, WriteHook

PAGE = 4096

KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30

WINDOWS: Final = "windows"
"""`backing`: each memory window has its own file."""

TABLE_SLOT = "_table_bar"
"""How the instance attributes begin that hold tables and windows."""

Areas = Sequence[tuple[int, int]]


class Bar(RegisterMap):
    """Base address register `index` (0 to 5), `size` bytes: a power of two, 16 at least, for `io` 4 to 256.

    `bits=64` takes the next index too. `backing`: its memory windows live in one sealed file, or with "windows" each
    in its own; then `mappable` says what a client may map: True all of it, False nothing, or a list of (offset, size),
    multiples of 4096 inside memory windows. `streamed`: when the device migrates its memory goes ahead, while the guest
    still runs (pre-copy): worth it from a few MiB on. `sized=False` allows any size, for clients that know it and size
    no BARs; QEMU wants powers of two. On an instance: a BoundBar. DeclarationError at class creation.
    """

    def __init__(
        self,
        index: int,
        size: int,
        *,
        io: bool = False,
        bits: Literal[32, 64] = 32,
        prefetchable: bool = False,
        backing: bool | Literal["windows"] = False,
        mappable: bool | Areas = True,
        streamed: bool = False,
        sized: bool = True,
        doc: str = "",
    ) -> None:
        super().__init__(size, label=f"BAR{index}", slot=f"{TABLE_SLOT}{index}")
        if bits not in (32, 64) or (io and bits != 32):
            raise DeclarationError(f"BAR{index}: bits must be 32, or 64 for a memory BAR, not {bits}")
        if backing not in (True, False, WINDOWS):
            raise DeclarationError(f"BAR{index}: backing must be True, False or {WINDOWS!r}, not {backing!r}")
        kind = BarKind.IO if io else BarKind.MEMORY64 if bits == 64 else BarKind.MEMORY32
        self.place = BarLayout(index, size, kind, prefetchable, sized)
        self.backing = backing
        self.mappable = mappable
        self.streamed = streamed
        self.doc = doc
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> BoundBar: ...
    def __get__(self, instance: object | None, owner: type) -> Self | BoundBar:
        """The declaration on the class; an instance's own attribute wins over this descriptor."""
        return self

    @property
    def index(self) -> int:
        """The BAR's number, which is its region index too."""
        return self.place.index

    @property
    def areas(self) -> tuple[tuple[int, int], ...]:
        """What a client may map, as (offset, size)."""
        if not self.backing or self.mappable is False:
            return ()
        if self.mappable is not True:
            return tuple(self.mappable)
        if self.backing == WINDOWS:
            return tuple((row.offset, row.size) for row in self.windows)
        return ((0, self.size),)

    @property
    def windows(self) -> tuple[MemoryWindow, ...]:
        """Its memory."""
        return tuple(row for row in self.rows if isinstance(row, MemoryWindow))

    def check_areas(self, owner: str) -> None:
        """DeclarationError unless every mappable area is whole pages of memory windows."""
        if self.backing and (self.place.is_io or self.size % PAGE):
            raise DeclarationError(
                f"{owner}: a backed BAR must be memory of whole pages ({PAGE} bytes), not {self.size}"
            )
        for offset, size in self.areas:
            if offset % PAGE or size % PAGE or size <= 0 or offset < 0:
                raise DeclarationError(
                    f"{owner}: mappable areas must be multiples of {PAGE}, not {offset:#x}+{size:#x}"
                )
            if not self._is_memory(offset, offset + size):
                raise DeclarationError(f"{owner}: mappable areas must lie in memory(), not {offset:#x}+{size:#x}")

    def _is_memory(self, start: int, end: int) -> bool:
        if self.backing == WINDOWS:
            return any(row.offset <= start and end <= row.offset + row.size for row in self.windows)
        for row in self.windows:  # in order of offset, once compiled
            if row.offset <= start < row.offset + row.size:
                start = row.offset + row.size
        return start >= end


class BoundBar:
    """One instance's BAR: its table, its memory, its file."""

    def __init__(
        self,
        declared: Bar,
        device: str,
        hooks: Mapping[int, tuple[ReadHook | None, WriteHook | None]],
        gate: Gate,
        areas: Areas,
    ) -> None:
        self.declared = declared
        self._files = self._make_files(device)
        self._areas = tuple(self._area(*area) for area in areas)
        self.windows = {row.index: self._memory(row) for row in declared.windows}
        needs = Gate.IO if declared.place.is_io else Gate.MEMORY
        self.table = Table(declared.layout, hooks, memory=self.windows, gate=gate, needs=needs)
        for row in declared.windows:
            row.fill_zeros(self.windows[row.index])

    @property
    def undeclared(self) -> int:
        """Accesses to offsets that nobody declared, since reset."""
        return self.table.undeclared

    def region(self) -> Region:
        """What the contract says about this BAR."""
        flags = RegionFlags.READ | RegionFlags.WRITE
        if not self._areas:
            return Region(self.declared.size, flags, self.table)
        flags |= RegionFlags.MMAP
        if self.declared.backing == WINDOWS:
            return Region(self.declared.size, flags, self.table, areas=self._areas)
        whole = self._areas == (MmapArea(0, self.declared.size),)
        (fd,) = {file.fd for file in self._files.values()}
        return Region(self.declared.size, flags, self.table, fd=fd, areas=() if whole else self._areas)

    def reset(self, *, memory: bool = True) -> None:
        """Registers and memory (unless that is set whole by who asks) back to their power-on values; the file stays the
        same."""
        self.table.reset()
        if memory:
            self._fill()

    @property
    def files(self) -> dict[int, Backing]:
        """What its windows lie in: each window's own file by the window's offset, or one for all of them by 0."""
        if self.declared.backing == WINDOWS:
            return {row.offset: self._files[row.index] for row in self.declared.windows}
        return {0: next(iter(self._files.values()))} if self._files else {}

    def let_go(self) -> None:
        """Another process goes on with its files: what is written here from now on is not seen there."""
        for file in self.files.values():
            file.let_go()

    def snapshot(self) -> dict[str, bytes]:
        """The bytes of every register and window, by name."""
        return {row.name: self._bytes(row.index) for row in self.declared.rows}

    def restore(self, saved: Mapping[str, bytes], where: str) -> None:
        """Sets what snapshot() gave. CommandError(EINVAL) unless names and sizes are the same."""
        expected = {row.name: row.size for row in self.declared.rows}
        given = {name: len(data) for name, data in saved.items()}
        if expected != given:
            differing = sorted(name for name, _ in expected.items() ^ given.items())
            raise CommandError(22, f"{where}: registers differ from the saved ones: {', '.join(differing)}")
        for row in self.declared.rows:
            if row.index in self.windows:
                self.windows[row.index][:] = saved[row.name]
            else:
                self.table.restore(row.index, bytes(saved[row.name]))

    def close(self) -> None:
        """Drops the table and closes the file and its mapping. Idempotent."""
        self.__dict__.pop("table", None)
        windows, self.windows = self.windows, {}
        files, self._files = self._files, {}
        if not files:
            return
        for window in windows.values():
            with suppress(BufferError):  # whoever still has the table keeps the mapping alive
                window.release()
        for file in files.values():
            file.close()

    def _make_files(self, device: str) -> dict[int, Backing]:
        """The file of each window. A window begins at the same offset in its own file as in the BAR, behind a hole, so
        that clients which take one file for a region can map it."""
        declared = self.declared
        if not declared.backing or not declared.windows:
            return {}
        if declared.backing == WINDOWS:
            return {
                row.index: Backing(f"{device} {declared.label} {row.name}", row.offset + row.size)
                for row in declared.windows
            }
        return dict.fromkeys(
            (row.index for row in declared.windows), Backing(f"{device} {declared.label}", declared.size)
        )

    def _area(self, offset: int, size: int) -> MmapArea:
        if self.declared.backing != WINDOWS:
            return MmapArea(offset, size)
        (row,) = [row for row in self.declared.windows if row.offset <= offset < row.offset + row.size]
        return MmapArea(offset, size, self._files[row.index].fd, offset)

    def _memory(self, window: MemoryWindow) -> memoryview:
        file = self._files.get(window.index)
        if file is None:
            return memoryview(bytearray(window.size))
        return memoryview(file.memory)[window.offset : window.offset + window.size]

    def _fill(self) -> None:
        for row in self.declared.windows:
            row.fill(self.windows[row.index])

    def _bytes(self, row: int) -> bytes:
        return bytes(self.windows[row]) if row in self.windows else self.table.snapshot(row)
