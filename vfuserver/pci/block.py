"""A block is a run of configuration bytes with one owner: the header, or one capability.

A declaration (`Msi(vectors=4)`) is immutable and may be shared by many devices; it holds no state. `bind` makes the
live copy that lies in one configuration space: it reads and sets its own bytes there, sees writes after they have been
stored, and acts through the device's port. It must not know its neighbours or where it lies.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

from vfuserver.errors import LocalError
from vfuserver.pci.bar import BarLayout
from vfuserver.pci.fields import Field, Layout, compile_layout
from vfuserver.pci.port import ENABLES, Command, ConfigPort
from vfuserver.vfio import Later


@dataclass(frozen=True, slots=True)
class Write:
    """One piece of a configuration write, seen by the block it fell into, after the store.

    `offset` in bytes from the block's start; `data`, 1, 2 or 4 bytes as they were written; `old` and `new`, all bytes
    of the block before and after.
    """

    layout: Layout
    offset: int
    data: bytes
    old: bytes
    new: bytes

    @property
    def width(self) -> int:
        """Bytes written: 1, 2 or 4."""
        return len(self.data)

    def touches(self, name: str) -> bool:
        """True when the piece covers a byte of the field."""
        field = self.layout[name]
        return self.offset < field.end and field.offset < self.offset + self.width

    def asked(self, name: str) -> int:
        """The field's value as the writer wants it: the written bytes over the old ones, before any mask."""
        image = bytearray(self.old)
        image[self.offset : self.offset + self.width] = self.data
        return self.layout[name].load(image)

    def before(self, name: str) -> int:
        """The field's value before the write."""
        return self.layout[name].load(self.old)

    def after(self, name: str) -> int:
        """The field's value after the masks were applied."""
        return self.layout[name].load(self.new)

    def changed(self, name: str) -> int:
        """The bits of the field that the masks let change."""
        return self.before(name) ^ self.after(name)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bound block lives: its first offset in configuration space, its bytes there, and the device."""

    start: int
    values: memoryview
    port: ConfigPort


class Block(ABC):
    """Base of the header and of every capability. Subclasses are frozen dataclasses that state `rows()`."""

    _place: ClassVar[Place | None] = None

    @abstractmethod
    def rows(self) -> Sequence[Field]:
        """The block's registers. The block ends with the last one."""

    def check(self, bars: Sequence[BarLayout]) -> None:  # noqa: B027 - most blocks have nothing to check
        """Refuses a declaration that does not fit the function's BARs (DeclarationError). Called once, before use."""

    def on_write(self, write: Write) -> Later | None:
        """Called after each stored piece of a write into this block. A Later: what it started takes time, and neither
        the rest of the write nor its answer comes before that is done."""
        return None

    def on_reset(self, before: bytes) -> None:  # noqa: B027 - most blocks have nothing to do
        """Called after the reset image was restored, with the block's bytes from before."""

    def saved(self) -> bytes:
        """What the block remembers besides its bytes."""
        return b""

    def unlike(self, saved: bytes) -> str:
        """Why saved() of another function's block cannot be this one's; "" if it can."""
        return "" if not saved else f"must have no bytes of its own, not {len(saved)}"

    def restore(self, saved: bytes) -> None:  # noqa: B027 - most blocks have nothing to restore
        """Sets what saved() gave, after the block's bytes were set."""

    def permits(self) -> Command:
        """The COMMAND enables that the block lets through at this moment; all of them unless it says otherwise."""
        return ENABLES

    @cached_property
    def layout(self) -> Layout:
        """The compiled rows."""
        return compile_layout(self.rows())

    @property
    def length(self) -> int:
        """Size in bytes."""
        return len(self.layout)

    @property
    def name(self) -> str:
        """What messages and `describe` call the block."""
        return type(self).__name__

    def image(self) -> bytes:
        """The bytes after a reset, before next pointers are filled in."""
        return self.layout.reset

    def write_mask(self) -> bytes:
        """The bits that a write stores."""
        return self.layout.writable

    def w1c_mask(self) -> bytes:
        """The bits that writing 1 clears."""
        return self.layout.clear

    def bind(self, place: Place) -> Self:
        """A live copy that owns the bytes of `place`. The declaration stays as it is."""
        bound = copy(self)
        object.__setattr__(bound, "_place", place)
        return bound

    @property
    def place(self) -> Place:
        """Where the block lives; LocalError for a declaration that no configuration space has bound."""
        if self._place is None:
            raise LocalError(f"{self.name} is a declaration: use the one in ConfigSpace.capabilities")
        return self._place

    @property
    def start(self) -> int:
        """The offset of the block's first byte in configuration space."""
        return self.place.start

    @property
    def port(self) -> ConfigPort:
        """The device."""
        return self.place.port

    def snapshot(self) -> bytes:
        """All bytes of the block at this moment."""
        return bytes(self.place.values)

    def get(self, name: str) -> int:
        """A field's value."""
        return self.layout[name].load(self.place.values)

    def set(self, name: str, value: int) -> None:
        """Stores a field's value, whatever the masks say: for the device's side, never for a guest's write."""
        field = self.layout[name]
        self.place.values[field.offset : field.end] = field.dump(value)

    def set_bits(self, name: str, bits: int, on: bool) -> None:
        """Sets or clears some bits of a field, as set()."""
        value = self.get(name)
        self.set(name, value | bits if on else value & ~bits)
