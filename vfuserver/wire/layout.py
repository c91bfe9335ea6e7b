"""Layouts: one declaration that parses, builds and, for its leading integers, packs at `struct` speed.

A `Layout` is a construct Struct with a typed face. `parse` and `build` are construct itself: the specification, the
oracle of the C decoders, for our client and for what the log shows of messages. `unpack` and `pack` use a
`struct.Struct` derived from the same declaration (0.1 us instead of 7 us): all that a server answers goes through them.
construct is imported, and a layout's Struct made, once, when it is first parsed or built with: never by a server that
shows no messages. (Its own compile() makes parsing 4 times as fast, which leaves it 35 times slower than `unpack`; it
takes 0.1 s for all layouts, and cannot have those whose lengths are functions: so it is not used.)

vfio-user is host-endian ("all data is in the endianness of the host system"), so integers are native-endian and
unpadded. It must not know commands, sockets or sessions.
"""

import struct
from collections.abc import Callable
from enum import IntFlag
from functools import cached_property
from itertools import takewhile
from typing import Any, Final

from vfuserver.errors import VfuserverError


class LayoutError(VfuserverError, ValueError):
    """Bytes that do not fit their layout, or values that cannot be built; the text names the field."""


class Field:
    """One field of a layout: `"argsz" / U32` names it.

    `make` gives its construct when it is given the library; `size` is in bytes, None where the message says it;
    `code` is the `struct` code of a plain integer.
    """

    __slots__ = ("code", "make", "name", "size")

    def __init__(self, make: Callable[[Any], Any], size: int | None, code: str = "", name: str = "") -> None:
        self.make, self.size, self.code, self.name = make, size, code, name

    def __rtruediv__(self, name: str) -> "Field":
        return Field(self.make, self.size, self.code, name)


U16: Final = Field(lambda construct: construct.Int16un, 2, "H")
U32: Final = Field(lambda construct: construct.Int32un, 4, "L")
U64: Final = Field(lambda construct: construct.Int64un, 8, "Q")
S32: Final = Field(lambda construct: construct.Int32sn, 4, "l")
Rest: Final = Field(lambda construct: construct.GreedyBytes, None)
"""Everything up to the end of the message."""


def Bits(flags: type[IntFlag], of: Field = U32) -> Field:  # noqa: N802 - reads as the construct it makes
    """An integer shown as `flags`; bits that the enumeration does not know survive a round trip."""
    return Field(
        lambda construct: construct.ExprAdapter(
            of.make(construct), lambda value, _: flags(value), lambda value, _: int(value)
        ),
        of.size,
        of.code,
    )


def Count(of: Field, field: str) -> Field:  # noqa: N802
    """An integer that is the length of `field` when built."""
    return Field(
        lambda construct: construct.Rebuild(of.make(construct), lambda context: len(context[field])), of.size, of.code
    )


def Blob(count: str | int) -> Field:  # noqa: N802
    """As many bytes as the integer field `count` says, or a fixed number."""
    if isinstance(count, int):
        return Field(lambda construct: construct.Bytes(count), count)
    return Field(lambda construct: construct.Bytes(lambda context: context[count]), None)


def Array(count: str, element: "Layout") -> Field:  # noqa: N802
    """As many elements as the integer field `count` says."""
    return Field(lambda construct: construct.Array(lambda context: context[count], element.construct), None)


def Nested(layout: "Layout") -> Field:  # noqa: N802
    """A layout inside another one."""
    return Field(lambda _: layout.construct, layout.size if layout.is_fixed else None)


def _library() -> Any:
    import construct

    return construct


class Layout:
    """A message body, field by field: `Layout("argsz" / U32, "flags" / U32, "data" / Rest)`.

    `size` is that of the fixed part in bytes: what a message must at least have. `is_fixed`: it has no other part.
    """

    def __init__(self, *fields: Field) -> None:
        self._fields: Final = fields
        self.names: Final[tuple[str, ...]] = tuple(field.name for field in fields)
        sizes = [field.size for field in fields]
        self.is_fixed: Final = None not in sizes
        self.size: Final = sum(size for size in takewhile(lambda size: size is not None, sizes) if size is not None)
        leading = takewhile(bool, (field.code for field in fields))
        self._integers = struct.Struct("=" + "".join(leading))

    @cached_property
    def construct(self) -> Any:
        """The whole declaration, as construct has it."""
        library = _library()
        return library.Struct(*(field.name / field.make(library) for field in self._fields))

    def parse(self, data: bytes) -> Any:
        """All fields, as attributes of a construct Container. LayoutError if bytes are missing."""
        try:
            return self.construct.parse(data)
        except (_library().ConstructError, ValueError, OverflowError) as error:
            raise LayoutError(f"{len(data)} bytes are too few: {_first_line(error)}") from error

    def build(self, **values: Any) -> bytes:
        """The bytes of `values`. LayoutError if one is missing or out of range."""
        try:
            return bytes(self.construct.build(values))
        except (_library().ConstructError, KeyError, TypeError, ValueError) as error:
            raise LayoutError(f"cannot build {values}: {_first_line(error)}") from error

    def unpack(self, data: bytes) -> tuple[int, ...]:
        """The leading integer fields only, fast. LayoutError if bytes are missing."""
        if len(data) < self._integers.size:
            raise LayoutError(f"{len(data)} bytes are too few, must be {self._integers.size}")
        return self._integers.unpack_from(data)

    def pack(self, *integers: int) -> bytes:
        """The leading integer fields as bytes, fast; what `unpack` reads."""
        try:
            return self._integers.pack(*integers)
        except struct.error as error:
            raise LayoutError(f"cannot pack {integers}: {error}") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[-1]


EMPTY: Final = Layout()
"""No payload."""
