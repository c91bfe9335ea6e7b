"""A declarative notation for configuration-space registers: rows of fields, compiled to byte arrays.

One row says where a field lies, what it holds after reset and what a write does to each of its bits. The same rows
drive reading, writing, reset, `describe` and the tests. A compiled layout is immutable, and equal declarations share
one, whatever device they belong to (S2.1). Bytes are little endian always; integers exist only at the edge (S2.3).

What a write does to a bit, by the mask that holds it:

    writable    it is stored
    clear       writing 1 clears it, writing 0 keeps it
    hooked      nothing is stored: the block's `on_write` sees what was asked for and sets the bit itself
    none        the bit is read-only: the write is dropped and succeeds (S2.2)

It must not know capabilities, the header or configuration space.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from functools import lru_cache
from itertools import pairwise
from struct import Struct
from typing import Final, TypeAlias

from vfuserver.errors import DeclarationError

BYTE: Final = 1
WORD: Final = 2
DWORD: Final = 4
QWORD: Final = 8

BYTE_MASK: Final = 0xFF
WORD_MASK: Final = 0xFFFF
DWORD_MASK: Final = 0xFFFF_FFFF
QWORD_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF

BitNames: TypeAlias = type[IntEnum] | type[IntFlag]
"""A class whose members are masks within one register: PmControl.STATE = 0x0003."""

_MASKS: Final = ("reset", "writable", "clear", "hooked", "sticky", "shown")
_UNPACK: Final = {width: Struct(f"<{code}").unpack_from for width, code in zip((1, 2, 4, 8), "BHIQ", strict=True)}
"""Reads a number where it lies; masks are asked for at every interrupt."""
_DISJOINT: Final = (("writable", "clear"), ("writable", "hooked"), ("clear", "hooked"))


def ones(width: int) -> int:
    """The mask of all bits of `width` bytes."""
    return (1 << 8 * width) - 1


@dataclass(frozen=True, slots=True)
class Field:
    """One register of a block: `offset` and `width` in bytes, from the block's start; the masks have 8 * width bits.

    `sticky` bits survive a reset (PCIe 5.0, 7.4: ROS, RWS, RW1CS). `shown` bits only the device changes.
    `bits` names the parts of the value, `meanings` gives the values of some of these parts names. DeclarationError for
    a mask wider than the field, or for a bit that is declared to do two things.
    """

    name: str
    offset: int
    width: int
    reset: int = 0
    writable: int = 0
    clear: int = 0
    hooked: int = 0
    sticky: int = 0
    shown: int = 0
    bits: BitNames | None = None
    meanings: tuple[tuple[int, type[IntEnum]], ...] = ()

    def __post_init__(self) -> None:
        if self.offset < 0 or self.width < BYTE:
            raise DeclarationError(
                f"field {self.name} must lie at offset 0 or above and have a byte or more, "
                f"not {self.width} bytes at {self.offset}"
            )
        for name in _MASKS:
            mask = getattr(self, name)
            if mask >> (8 * self.width):
                raise DeclarationError(f"field {self.name}: {name} must have {8 * self.width} bits, not {mask:#x}")
        for one, other in _DISJOINT:
            both = getattr(self, one) & getattr(self, other)
            if both:
                raise DeclarationError(f"field {self.name}: a bit must be {one} or {other}, not both ({both:#x})")

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return self.offset + self.width

    def load(self, image: bytes | bytearray | memoryview) -> int:
        """The field's value within the bytes of its block."""
        unpack = _UNPACK.get(self.width)
        if unpack is None:
            return int.from_bytes(image[self.offset : self.end], "little")
        value: int = unpack(image, self.offset)[0]
        return value

    def dump(self, value: int) -> bytes:
        """The bytes of a value, as they lie in the block."""
        return value.to_bytes(self.width, "little")


@dataclass(frozen=True, slots=True)
class Layout:
    """Compiled rows: for every byte of a block its reset value and its masks. Bytes that no row covers read zero."""

    fields: tuple[Field, ...]
    reset: bytes
    writable: bytes
    clear: bytes
    hooked: bytes
    sticky: bytes
    shown: bytes

    def __len__(self) -> int:
        return len(self.reset)

    @property
    def constant(self) -> bytes:
        """For every byte the bits that never change: what two functions of one kind have in common (S2.31)."""
        changing = zip(self.writable, self.clear, self.hooked, self.sticky, self.shown, strict=True)
        return bytes(~(one | two | three | four | five) & BYTE_MASK for one, two, three, four, five in changing)

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"no field {name}; there are {', '.join(field.name for field in self.fields)}")

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)


def compile_layout(fields: Iterable[Field]) -> Layout:
    """Turns rows into a layout that ends with the last field. Equal rows give the same object.

    DeclarationError when two fields claim one byte or one name, naming both.
    """
    return _compile(tuple(sorted(fields, key=lambda field: field.offset)))


@lru_cache(maxsize=1024)
def _compile(fields: tuple[Field, ...]) -> Layout:
    for one, other in pairwise(fields):
        if one.end > other.offset:
            raise DeclarationError(
                f"fields must not overlap, not {one.name} ({one.offset:#x} to {one.end:#x}) "
                f"and {other.name} (at {other.offset:#x})"
            )
    names = [field.name for field in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DeclarationError(f"field names must be unique, not {', '.join(twice)} twice")
    return Layout(fields, *(_image(fields, mask) for mask in _MASKS))


def _image(fields: tuple[Field, ...], attribute: str) -> bytes:
    image = bytearray(max((field.end for field in fields), default=0))
    for field in fields:
        image[field.offset : field.end] = field.dump(getattr(field, attribute))
    return bytes(image)
