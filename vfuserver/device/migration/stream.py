"""How a stream is laid out: a header, sections, and an end marker that vouches for all of it (docs/migration.md).

    header   magic, major, minor, CRC of these
    section  name, version, flags, length, CRC of the payload, CRC of this header; then the payload
    ...
    end      a section whose payload is the number of sections before it, and the CRC of all headers before it

All little endian; CRCs are zlib's CRC-32. A section's header is checked before its length is believed. A reader knows
one major version; a higher minor one may add sections, which are skipped if they say that they are optional. It must
not know what is in a section.
"""

import errno
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeAlias

from vfuserver.errors import CommandError, LocalError

MAGIC: Final = b"\x89vfudev\n"
MAJOR: Final = 1
MINOR: Final = 0
OPTIONAL: Final = 1
"""The flag of a section that who does not know it may skip."""
LONGEST: Final = 64 << 20
"""Bytes of a section's payload."""
END: Final = "end"
END_VERSION: Final = 1

_HEADER: Final = struct.Struct("<8sHHI")
_SECTION: Final = struct.Struct("<16sHHIII")
_END: Final = struct.Struct("<II")
_CRC_BYTES: Final = 4

Bytes: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Section:
    """One section, whole. `version` counts what its payload looks like; `name` has up to 16 ASCII characters."""

    name: str
    version: int
    payload: bytes
    optional: bool = False


class Writer:
    """Makes the pieces of one stream, in order."""

    def __init__(self, headers: int = 0, sections: int = 0) -> None:
        """One that was begun elsewhere goes on with what carry() gave."""
        self._headers = headers
        self._sections = sections

    def carry(self) -> list[int]:
        """How far it is."""
        return [self._headers, self._sections]

    def header(self) -> bytes:
        """What a stream begins with."""
        return self._counted(_sealed(_HEADER, MAGIC, MAJOR, MINOR))

    def section(self, name: str, version: int, *payload: Bytes, optional: bool = False) -> list[Bytes]:
        """A section whose payload is these pieces, which are not copied. LocalError: longer than LONGEST."""
        crc = length = 0
        for piece in payload:
            crc, length = zlib.crc32(piece, crc), length + len(piece)
        if length > LONGEST:
            raise LocalError(f"the section {name} must have at most {LONGEST} bytes, not {length}")
        flags = OPTIONAL if optional else 0
        header = self._counted(_sealed(_SECTION, name.encode().ljust(16, b"\0"), version, flags, length, crc))
        self._sections += 1
        return [header, *payload]

    def end(self) -> list[Bytes]:
        """What a stream ends with."""
        return self.section(END, END_VERSION, _END.pack(self._sections, self._headers))

    def _counted(self, header: bytes) -> bytes:
        self._headers = zlib.crc32(header, self._headers)
        return header


class Parser:
    """Takes a stream in any segmentation and gives its sections, each when all of it is there and its CRC is right.

    Every error is CommandError(EINVAL), and is the same for whatever follows it.
    """

    CARRIED: ClassVar = {"buffer": bytes, "headers": int, "sections": int, "begun": bool, "ended": bool}

    def __init__(self, carried: Mapping[str, Any] | None = None) -> None:
        """One that was begun elsewhere goes on with what carry() gave."""
        begun = carried or {"buffer": b"", "headers": 0, "sections": 0, "begun": False, "ended": False}
        self._buffer = bytearray(begun["buffer"])
        self._headers = begun["headers"]
        self._sections = begun["sections"]
        self._begun = begun["begun"]
        self._refused: CommandError | None = None
        self.ended = begun["ended"]
        """True once the end marker came and was right."""

    def carry(self) -> dict[str, Any]:
        """How far it is, and what is not a section yet."""
        values = bytes(self._buffer), self._headers, self._sections, self._begun, self.ended
        return dict(zip(self.CARRIED, values, strict=True))

    def feed(self, data: Bytes) -> list[Section]:
        """The sections that these bytes complete, without the end marker."""
        if self._refused is not None:
            raise self._refused
        self._buffer += data
        try:
            return self._take()
        except CommandError as error:
            self._refused = error
            raise

    def finish(self) -> None:
        """Refuses a stream that is not whole."""
        if self._refused is not None:
            raise self._refused
        if not self.ended:
            raise refused(f"it ends after {self._sections} sections, without an end marker")

    def _take(self) -> list[Section]:
        found: list[Section] = []
        if not self._begun and len(self._buffer) >= _HEADER.size:
            self._begin()
        while self._begun and (section := self._next()) is not None:
            if section.name == END:
                self._end(section)
            else:
                self._sections += 1
                found.append(section)
        if self.ended and self._buffer:
            raise refused(f"{len(self._buffer)} bytes follow its end")
        return found

    def _begin(self) -> None:
        header = self._opened(_HEADER, "the beginning")
        magic, major, minor = header[:3]
        if magic != MAGIC:
            raise refused("it is not a stream of a vfuserver device")
        if major != MAJOR:
            raise refused(f"its format is {major}.{minor}, must be {MAJOR}")
        self._headers = zlib.crc32(self._buffer[: _HEADER.size])
        del self._buffer[: _HEADER.size]
        self._begun = True

    def _next(self) -> Section | None:
        if self.ended or len(self._buffer) < _SECTION.size:
            return None
        name, version, flags, length, crc, _ = self._opened(_SECTION, f"the header of section {self._sections}")
        what = name.rstrip(b"\0").decode("ascii", "backslashreplace")
        if length > LONGEST or flags & ~OPTIONAL:
            raise refused(f"the section {what} has {length} bytes (at most {LONGEST}) and flags {flags:#x}")
        end = _SECTION.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(memoryview(self._buffer)[_SECTION.size : end])
        if zlib.crc32(payload) != crc:
            raise refused(f"the section {what} is damaged")
        if what != END:
            self._headers = zlib.crc32(self._buffer[: _SECTION.size], self._headers)
        del self._buffer[:end]
        return Section(what, version, payload, bool(flags & OPTIONAL))

    def _opened(self, layout: struct.Struct, what: str) -> Sequence[Any]:
        data = bytes(memoryview(self._buffer)[: layout.size])
        values = layout.unpack(data)
        if values[-1] != zlib.crc32(data[:-_CRC_BYTES]):
            raise refused(f"{what} is damaged, or not of a stream of a vfuserver device")
        return values

    def _end(self, section: Section) -> None:
        if section.version != END_VERSION or section.payload != _END.pack(self._sections, self._headers):
            raise refused("sections are missing, or not in their order")
        self.ended = True


def refused(why: str) -> CommandError:
    """What every refusal of a stream is."""
    return CommandError(errno.EINVAL, f"the stream is refused: {why}")


def _sealed(layout: struct.Struct, *values: int | bytes) -> bytes:
    """A header whose last field is the CRC of the others."""
    data = layout.pack(*values, 0)[:-_CRC_BYTES]
    return data + zlib.crc32(data).to_bytes(_CRC_BYTES, "little")
