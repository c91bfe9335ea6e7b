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
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from mmap import mmap
from typing import Any, ClassVar, Final, TypeAlias

from vfuserver._core import copy_crc32, crc32
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
    payload: Bytes
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

    def section(
        self, name: str, version: int, *payload: Bytes, optional: bool = False, crc: int | None = None
    ) -> list[Bytes]:
        """A section whose payload is these pieces, which are not copied; `crc` is theirs, if it is known.

        LocalError: longer than LONGEST.
        """
        length = sum(map(len, payload))
        if crc is None:
            crc = 0
            for piece in payload:
                crc = crc32(piece, crc)
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
        self._headers = crc32(header, self._headers)
        return header


Room = Callable[[str, int], memoryview]
"""room(name, size): memory in which the payload of a section is put together."""


def own_room(name: str, size: int) -> memoryview:
    """Memory of its own for every payload."""
    return memoryview(bytearray(size))


class _Incoming:
    """A section whose header has come, and what there is of its payload."""

    __slots__ = ("at", "crc", "found", "header", "payload", "section")

    def __init__(self, section: Section, payload: memoryview, crc: int, header: bytes) -> None:
        self.section, self.payload, self.crc, self.header = section, payload, crc, header
        self.at = self.found = 0

    def take(self, data: memoryview) -> memoryview:
        """Puts bytes in their place; gives back those that are not of this section."""
        here = self.payload[self.at : self.at + len(data)]
        self.found = copy_crc32(here, data[: len(here)], self.found)
        self.at += len(here)
        return data[len(here) :]

    @property
    def whole(self) -> bool:
        return self.at == len(self.payload)

    @property
    def so_far(self) -> bytes:
        """The header and what has come behind it."""
        return self.header + self.payload[: self.at]


class Parser:
    """Takes a stream in any segmentation and gives its sections, each when all of it is there and its CRC is right.

    Every error is CommandError(EINVAL), and is the same for whatever follows it.
    """

    CARRIED: ClassVar = {"headers": int, "sections": int, "begun": bool, "ended": bool, "partial": bytes}

    def __init__(self, room: Room = own_room) -> None:
        self._room = room
        self._header = bytearray()
        """What there is of the next one."""
        self._incoming: _Incoming | None = None
        self._headers = 0
        self._sections = 0
        self._begun = False
        self._refused: CommandError | None = None
        self.ended = False
        """True once the end marker came and was right."""

    def carry(self) -> dict[str, Any]:
        """How far it is, and what has come of a section that is not whole."""
        partial = bytes(self._header) if self._incoming is None else self._incoming.so_far
        values = self._headers, self._sections, self._begun, self.ended, partial
        return dict(zip(self.CARRIED, values, strict=True))

    def adopt(self, carried: Mapping[str, Any]) -> None:
        """Goes on from what carry() gave."""
        self._headers, self._sections, self._begun, self.ended, partial = (carried[name] for name in self.CARRIED)
        self.feed(partial)

    def feed(self, data: Bytes) -> list[Section]:
        """The sections that these bytes complete, without the end marker."""
        if self._refused is not None:
            raise self._refused
        found: list[Section] = []
        try:
            with memoryview(data) as left:
                self._take(left, found)
        except CommandError as error:
            self._refused = error
            raise
        return found

    def finish(self) -> None:
        """Refuses a stream that is not whole."""
        if self._refused is not None:
            raise self._refused
        if not self.ended:
            raise refused(f"it ends after {self._sections} sections, without an end marker")

    def _take(self, data: memoryview, found: list[Section]) -> None:
        while data:
            if self.ended:
                raise refused(f"{len(data)} bytes follow its end")
            data = self._take_header(data) if self._incoming is None else self._incoming.take(data)
            if self._incoming is not None and self._incoming.whole:
                self._complete(self._incoming, found)
                self._incoming = None

    def _take_header(self, data: memoryview) -> memoryview:
        layout = _SECTION if self._begun else _HEADER
        missing = layout.size - len(self._header)
        self._header += data[:missing]
        if len(self._header) == layout.size:
            header = bytes(self._header)
            self._header.clear()
            if self._begun:
                self._incoming = self._opened(header)
            else:
                self._begin(header)
        return data[missing:]

    def _begin(self, header: bytes) -> None:
        magic, major, minor, _ = _unsealed(_HEADER, header, "the beginning")
        if magic != MAGIC:
            raise refused("it is not a stream of a vfuserver device")
        if major != MAJOR:
            raise refused(f"its format is {major}.{minor}, must be {MAJOR}")
        self._headers = crc32(header)
        self._begun = True

    def _opened(self, header: bytes) -> _Incoming:
        name, version, flags, length, crc, _ = _unsealed(_SECTION, header, f"the header of section {self._sections}")
        what = name.rstrip(b"\0").decode("ascii", "backslashreplace")
        if length > LONGEST or flags & ~OPTIONAL:
            raise refused(f"the section {what} has {length} bytes (at most {LONGEST}) and flags {flags:#x}")
        payload = self._room(what, length)
        return _Incoming(Section(what, version, payload, bool(flags & OPTIONAL)), payload, crc, header)

    def _complete(self, incoming: _Incoming, found: list[Section]) -> None:
        section = incoming.section
        if incoming.found != incoming.crc:
            raise refused(f"the section {section.name} is damaged")
        if section.name == END:
            self._end(section)
            return
        self._headers = crc32(incoming.header, self._headers)
        self._sections += 1
        found.append(section)

    def _end(self, section: Section) -> None:
        if section.version != END_VERSION or section.payload != _END.pack(self._sections, self._headers):
            raise refused("sections are missing, or not in their order")
        self.ended = True


def refused(why: str) -> CommandError:
    """What every refusal of a stream is."""
    return CommandError(errno.EINVAL, f"the stream is refused: {why}")


def _unsealed(layout: struct.Struct, header: bytes, what: str) -> tuple[Any, ...]:
    values = layout.unpack(header)
    if values[-1] != crc32(header[:-_CRC_BYTES]):
        raise refused(f"{what} is damaged, or not of a stream of a vfuserver device")
    return values


def _sealed(layout: struct.Struct, *values: int | bytes) -> bytes:
    """A header whose last field is the CRC of the others."""
    data = layout.pack(*values, 0)[:-_CRC_BYTES]
    return data + crc32(data).to_bytes(_CRC_BYTES, "little")


# -- reading what is damaged -------------------------------------------------------------------------------------------


_NAME: Final = re.compile(rb"(?=[!-~]{1,15}\0)")
"""How a section's header may begin."""


@dataclass(frozen=True, slots=True)
class Found:
    """`size` bytes at `at` of a stream, and what they are: a section as far as it is there, or no section at all.

    `problem` says what is wrong with them; empty: nothing.
    """

    at: int
    size: int
    section: Section | None
    problem: str = ""


def scan(data: bytes | mmap, start: int = 0) -> Iterator[Found]:
    """Every section of the stream that begins at `start`, its end included: also of one that Parser refuses, for
    people who look at it. Behind a header that is damaged it goes on at the next place where one is right."""
    sections, at, ended = 0, start + _HEADER.size, False
    if problem := _wrong_beginning(data[start:at]):
        yield Found(start, min(at, len(data)) - start, None, problem)
    headers = crc32(data[start:at])
    while at < len(data):
        if ended:
            yield Found(at, len(data) - at, None, f"{len(data) - at} bytes follow the end")
            return
        found = _found(data, at)
        if found.section is not None and found.section.name == END:
            right = found.section.payload == _END.pack(sections, headers)
            found = replace(found, problem=found.problem or ("" if right else "sections are missing, or damaged"))
            ended = True
        yield found
        headers = crc32(data[at : at + _SECTION.size], headers)
        sections, at = sections + 1, at + found.size
    if not ended:
        yield Found(at, 0, None, "the stream ends without an end marker")


def _wrong_beginning(data: bytes) -> str:
    if len(data) < _HEADER.size:
        return f"{len(data)} bytes are no beginning of a stream"
    magic, major, minor, crc = _HEADER.unpack(data)
    if magic != MAGIC or crc != crc32(data[:-_CRC_BYTES]):
        return "the beginning is damaged, or not that of a stream of a vfuserver device"
    return "" if major == MAJOR else f"the format is {major}.{minor}, must be {MAJOR}"


def _found(data: bytes | mmap, at: int) -> Found:
    head = data[at : at + _SECTION.size]
    if not _is_header(head):
        end = _next_header(data, at + 1)
        return Found(at, end - at, None, f"{end - at} bytes are no section that can be read")
    name, version, flags, length, crc, _ = _SECTION.unpack(head)
    payload = data[at + _SECTION.size : at + _SECTION.size + length]
    problem = f"flags {flags:#x} are not known" if flags & ~OPTIONAL else ""
    if crc32(payload) != crc:
        problem = "damaged: its CRC is wrong"
    if len(payload) < length:
        problem = f"cut: {len(payload)} of {length} bytes are there"
    section = Section(_text(name), version, payload, bool(flags & OPTIONAL))
    return Found(at, _SECTION.size + len(payload), section, problem)


def _is_header(head: bytes) -> bool:
    if len(head) < _SECTION.size:
        return False
    *_, length, _, crc = _SECTION.unpack(head)
    return length <= LONGEST and bool(crc == crc32(head[:-_CRC_BYTES]))


def _next_header(data: bytes | mmap, at: int) -> int:
    """Where the next right header begins, or the end."""
    for one in _NAME.finditer(data, at):
        if _is_header(data[one.start() : one.start() + _SECTION.size]):
            return one.start()
    return len(data)


def _text(name: bytes) -> str:
    return name.rstrip(b"\0").decode("ascii", "backslashreplace")
