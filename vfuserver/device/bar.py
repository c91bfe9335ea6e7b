"""A BAR as a device class declares it, and as an instance holds it.

A Bar is a register map with a place in configuration space and, for memory that clients may map, a file behind it.
It must not know devices, sessions or who maps what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, Self, overload

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

TABLE_SLOT = "_table_bar"
"""How the instance attributes begin that hold tables and windows."""

Areas = Sequence[tuple[int, int]]


class Bar(RegisterMap):
    """Base address register `index` (0 to 5), `size` bytes: a power of two, 16 at least, for `io` 4 to 256.

    `bits=64` takes the next index too. `backing`: its memory windows live in one sealed file; then `mappable` says
    what a client may map: True all of it, False nothing, or a list of (offset, size), multiples of 4096 inside memory
    windows. `sized=False` allows any size, for clients that know it and size no BARs; QEMU wants powers of
    two. On an instance: a BoundBar. DeclarationError at class creation.
    """

    def __init__(
        self,
        index: int,
        size: int,
        *,
        io: bool = False,
        bits: Literal[32, 64] = 32,
        prefetchable: bool = False,
        backing: bool = False,
        mappable: bool | Areas = True,
        sized: bool = True,
        doc: str = "",
    ) -> None:
        super().__init__(size, label=f"BAR{index}", slot=f"{TABLE_SLOT}{index}")
        if bits not in (32, 64) or (io and bits != 32):
            raise DeclarationError(f"BAR{index}: bits must be 32, or 64 for a memory BAR, not {bits}")
        kind = BarKind.IO if io else BarKind.MEMORY64 if bits == 64 else BarKind.MEMORY32
        self.place = BarLayout(index, size, kind, prefetchable, sized)
        self.backing = backing
        self.mappable = mappable
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
        return ((0, self.size),) if self.mappable is True else tuple(self.mappable)

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
        for row in self.rows:  # in order of offset, once compiled
            if isinstance(row, MemoryWindow) and row.offset <= start < row.offset + row.size:
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
        self._areas = tuple(MmapArea(*area) for area in areas)
        self._backing = Backing(f"{device} {declared.label}", declared.size) if declared.backing else None
        self.windows = {row.index: self._memory(row) for row in declared.rows if isinstance(row, MemoryWindow)}
        needs = Gate.IO if declared.place.is_io else Gate.MEMORY
        self.table = Table(declared.layout, hooks, memory=self.windows, gate=gate, needs=needs)
        self._fill()

    @property
    def undeclared(self) -> int:
        """Accesses to offsets that nobody declared, since reset."""
        return self.table.undeclared

    def region(self) -> Region:
        """What the contract says about this BAR."""
        flags = RegionFlags.READ | RegionFlags.WRITE
        if self._backing is None or not self._areas:
            return Region(self.declared.size, flags, self.table)
        whole = self._areas == (MmapArea(0, self.declared.size),)
        areas = () if whole else self._areas
        return Region(self.declared.size, flags | RegionFlags.MMAP, self.table, fd=self._backing.fd, areas=areas)

    def reset(self) -> None:
        """Registers and memory back to their power-on values; the file stays the same."""
        self.table.reset()
        self._fill()

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
        backing, self._backing = self._backing, None
        if backing is None:
            return
        for window in windows.values():
            with suppress(BufferError):  # whoever still has the table keeps the mapping alive
                window.release()
        backing.close()

    def _memory(self, window: MemoryWindow) -> memoryview:
        if self._backing is None:
            return memoryview(bytearray(window.size))
        return memoryview(self._backing.memory)[window.offset : window.offset + window.size]

    def _fill(self) -> None:
        for row in self.declared.rows:
            if isinstance(row, MemoryWindow):
                row.fill(self.windows[row.index])

    def _bytes(self, row: int) -> bytes:
        return bytes(self.windows[row]) if row in self.windows else self.table.snapshot(row)
