"""Plain data as bytes, in exactly one way: equal data gives equal bytes, and bytes that are not so written are refused.

A tag, one ASCII letter, says what follows; counts are 32 bits, little endian. Ints have any size, in two's complement
of as few bytes as hold them; a bytearray stays one, and a tuple too; dicts keep their order. Between processes of one
machine descriptors may lie among the data (`Descriptor`), which travel beside the bytes. It must not know devices.
"""

import errno
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vfuserver.errors import CommandError, LocalError

DEEPEST: Final = 64
"""Containers within containers."""
_COUNT: Final = struct.Struct("<I")
_FLOAT: Final = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An open descriptor among plain data. It is lent: whoever keeps it duplicates it."""

    fd: int


def encode(value: object, fds: list[int] | None = None) -> bytes:
    """The bytes of plain data. LocalError for anything else, or deeper than DEEPEST.

    `fds` takes up the descriptors among it, in order; without a list there must be none.
    """
    out = bytearray()
    _put(out, value, DEEPEST, fds)
    return bytes(out)


def decode(data: bytes | bytearray | memoryview, fds: Sequence[int] = ()) -> Any:
    """What encode() made these bytes of, with as many descriptors. CommandError(EINVAL): it made no such bytes."""
    reader = _Reader(bytes(data), fds)
    value = reader.value(DEEPEST)
    if reader.left:
        raise reader.refusal(f"{reader.left} bytes too many")
    if reader.fds_left:
        raise reader.refusal(f"{reader.fds_left} descriptors too many")
    return value


def _put(out: bytearray, value: object, depth: int, fds: list[int] | None) -> None:
    if depth == 0:
        raise LocalError(f"plain data must not be deeper than {DEEPEST} containers")
    match value:
        case Descriptor() if fds is not None:
            out += b"h"
            fds.append(value.fd)
        case None | True | False:
            out += {None: b"N", True: b"T", False: b"F"}[value]
        case int():
            _put_bytes(out, b"i", _int_bytes(value))
        case float():
            out += b"d" + _FLOAT.pack(value)
        case str():
            _put_bytes(out, b"s", value.encode("utf-8", "surrogatepass"))
        case bytearray():
            _put_bytes(out, b"a", value)
        case bytes():
            _put_bytes(out, b"b", value)
        case list() | tuple():
            out += (b"l" if isinstance(value, list) else b"t") + _COUNT.pack(len(value))
            for item in value:
                _put(out, item, depth - 1, fds)
        case dict():
            out += b"m" + _COUNT.pack(len(value))
            for key, item in value.items():
                _put(out, key, depth - 1, fds)
                _put(out, item, depth - 1, fds)
        case _:
            raise LocalError(f"must be plain data, not {type(value).__name__}")


def _put_bytes(out: bytearray, tag: bytes, data: bytes | bytearray) -> None:
    out += tag + _COUNT.pack(len(data)) + data


def _int_bytes(value: int) -> bytes:
    return value.to_bytes((value if value >= 0 else ~value).bit_length() // 8 + 1, "little", signed=True)


class _Reader:
    def __init__(self, data: bytes, fds: Sequence[int]) -> None:
        self._data = data
        self._at = 0
        self._fds = fds
        self._next_fd = 0
        self._readers: dict[bytes, Callable[[int], Any]] = {
            b"N": lambda _: None,
            b"T": lambda _: True,
            b"F": lambda _: False,
            b"h": lambda _: self._descriptor(),
            b"i": self._int,
            b"d": lambda _: _FLOAT.unpack(self._take(_FLOAT.size))[0],
            b"s": self._text,
            b"a": lambda _: bytearray(self._take(self._count())),
            b"b": lambda _: self._take(self._count()),
            b"l": self._list,
            b"t": lambda depth: tuple(self._list(depth)),
            b"m": self._dict,
        }

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    @property
    def fds_left(self) -> int:
        return len(self._fds) - self._next_fd

    def refusal(self, why: str) -> CommandError:
        return CommandError(errno.EINVAL, f"a saved value cannot be read at byte {self._at}: {why}")

    def value(self, depth: int) -> Any:
        tag = self._take(1)
        reader = self._readers.get(tag)
        if reader is None or depth == 0:
            raise self.refusal(f"too deep, more than {DEEPEST}" if reader else f"there is no tag {tag!r}")
        return reader(depth)

    def _take(self, count: int) -> bytes:
        if count > self.left:
            raise self.refusal(f"{count - self.left} bytes are missing")
        self._at += count
        return self._data[self._at - count : self._at]

    def _count(self) -> int:
        count: int = _COUNT.unpack(self._take(_COUNT.size))[0]
        if count > self.left:
            raise self.refusal(f"a count must be at most {self.left} here, not {count}")
        return count

    def _int(self, _: int) -> int:
        data = self._take(self._count())
        value = int.from_bytes(data, "little", signed=True)
        if data != _int_bytes(value):
            raise self.refusal("an int must have as few bytes as hold it")
        return value

    def _text(self, _: int) -> str:
        try:
            return self._take(self._count()).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise self.refusal(str(error)) from error

    def _descriptor(self) -> Descriptor:
        if not self.fds_left:
            raise self.refusal("a descriptor is missing")
        self._next_fd += 1
        return Descriptor(self._fds[self._next_fd - 1])

    def _list(self, depth: int) -> list[Any]:
        return [self.value(depth - 1) for _ in range(self._count())]

    def _dict(self, depth: int) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for _ in range(self._count()):
            key = self.value(depth - 1)
            try:
                known = key in made
            except TypeError as error:
                raise self.refusal(f"a key must be one that a dict can have, not {type(key).__name__}") from error
            if known:
                raise self.refusal(f"the key {key!r} must be there once")
            made[key] = self.value(depth - 1)
        return made
