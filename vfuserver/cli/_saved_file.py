"""The file of `vfuserver save`: a fixed head, what device the state is of, then the server's stream as it came.

All numbers are little-endian. The file appears under its name when it is whole, and not before. It must not know the
wire, nor what the stream means.
"""

import json
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from vfuserver._core import crc32
from vfuserver.cli._shape import Shape, checked
from vfuserver.errors import UsageError, VfuserverError
from vfuserver.vfio import MigrationState

MAGIC: Final = b"VFUSAVED"
VERSION: Final = 1
HEAD: Final = struct.Struct("<8sIIQI")
"""Magic, version, bytes of JSON, bytes of the stream, CRC-32 of the JSON and the stream."""
MOST_JSON: Final = 1 << 20
CHUNK: Final = 2 << 20
"""Bytes that are read at a time: several pieces of state, so that they are given to a server one after another."""


class SavedFileError(VfuserverError):
    """A file cannot be written, or is not what `vfuserver save` writes; the text names the file."""


class NewFile:
    """A file that is being written. Leaving the `with` block without `finish` removes what there is of it."""

    def __init__(self, path: Path, about: dict[str, Any], *, replace: bool = False) -> None:
        """`about` is plain data. UsageError: the file exists, and `replace` does not allow that, or it is none."""
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} must be a file, not a folder, a device or a pipe")
        if path.exists() and not replace:
            raise UsageError(f"{path} exists; use --force to replace it, or name another file")
        self.path = path
        self.size = 0
        text = json.dumps(about).encode()
        self._crc, self._json = crc32(text), len(text)
        with _failing(path):
            number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
            self._partial: Path | None = Path(name)
            self._file = os.fdopen(number, "wb")
            self._file.write(bytes(HEAD.size) + text)

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes of the stream."""
        self._crc = crc32(data, self._crc)
        self.size += len(data)
        with _failing(self.path):
            self._file.write(data)

    def finish(self) -> None:
        """All bytes were written: the file is on its medium, and has its name."""
        assert self._partial is not None
        with _failing(self.path):
            self._file.seek(0)
            self._file.write(HEAD.pack(MAGIC, VERSION, self._json, self.size, self._crc))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._partial.replace(self.path)
        self._partial = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._partial is not None:
            with suppress(OSError):  # what could not be written cannot be flushed either
                self._file.close()
            self._partial.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file that was read: what device its state is of, what state that was in, and where the stream is."""

    path: Path
    shape: Shape
    state: MigrationState
    flags: list[str]
    start: int
    size: int
    """Bytes of the stream."""
    crc: int

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads and checks all of it. SavedFileError."""
        with _failing(path), path.open("rb") as file:
            json_size, size, crc = _head(path, file)
            text = file.read(json_size)
            if len(text) < json_size:
                raise SavedFileError(f"{path} is cut: it ends after {HEAD.size + len(text)} bytes")
            found, there = crc32(text), 0
            while chunk := file.read(CHUNK):
                found, there = crc32(chunk, found), there + len(chunk)
            if there != size:
                raise SavedFileError(f"{path} has {there} bytes of state, must be {size}: was it cut or added to?")
            if found != crc:
                raise SavedFileError(f"{path} is damaged: its CRC-32 is {found:08x}, must be {crc:08x}")
        return cls(path, *_about(path, text), HEAD.size + json_size, size, crc)

    def chunks(self) -> Iterator[bytes]:
        """The stream. SavedFileError."""
        with _failing(self.path), self.path.open("rb") as file:
            file.seek(self.start)
            while chunk := file.read(CHUNK):
                yield chunk


@dataclass(frozen=True, slots=True)
class Remains:
    """What there is of a file, be it whole or damaged: what it says (None: unreadable), where its stream begins, and
    what is wrong (empty: nothing)."""

    saved: SavedFile | None
    start: int
    problem: str


def examine(path: Path, beginning: bytes) -> Remains:
    """Looks at a file for what can be shown of it. `beginning`: of a stream that is known, which is looked for where
    the head is no help, and may be there without a head. SavedFileError: there is nothing of the kind."""
    try:
        saved = SavedFile.read(path)
    except SavedFileError as error:
        with _failing(path), path.open("rb") as file:
            return _remains(path, file.read(HEAD.size + MOST_JSON + len(beginning)), beginning, error)
    return Remains(saved, saved.start, "")


def _remains(path: Path, data: bytes, beginning: bytes, error: SavedFileError) -> Remains:
    if beginning and data.startswith(beginning):
        return Remains(None, 0, "")
    start = data.find(beginning) if beginning else -1
    if not data.startswith(MAGIC) and start < 0:
        raise error
    if len(data) < HEAD.size:
        return Remains(None, len(data), str(error))
    _, _, json_size, size, crc = HEAD.unpack_from(data)
    end = HEAD.size + json_size
    try:
        saved = SavedFile(path, *_about(path, data[HEAD.size : end]), end, size, crc)
    except SavedFileError:
        return Remains(None, start if start >= 0 else min(end, len(data)), str(error))
    return Remains(saved, end, str(error))


@contextmanager
def mapped(path: Path) -> Iterator[bytes | mmap]:
    """All of a file, without reading it. SavedFileError."""
    with _failing(path), path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield b""
            return
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            yield data


def _head(path: Path, file: BinaryIO) -> tuple[int, int, int]:
    head = file.read(HEAD.size)
    if len(head) < HEAD.size or not head.startswith(MAGIC):
        raise SavedFileError(f"{path} is no file of `vfuserver save`: it must begin with {MAGIC.decode()}")
    _, version, json_size, size, crc = HEAD.unpack(head)
    if version != VERSION:
        raise SavedFileError(f"{path} is of version {version}, must be {VERSION}: was it saved by a newer vfuserver?")
    if json_size > MOST_JSON:
        raise SavedFileError(f"{path} is damaged: {json_size} bytes about the device, must be at most {MOST_JSON}")
    return json_size, size, crc


def _about(path: Path, text: bytes) -> tuple[Shape, MigrationState, list[str]]:
    try:
        about = json.loads(text)
        return checked(about["shape"]), MigrationState[about["state"]], [str(flag) for flag in about["flags"]]
    except (ValueError, KeyError, TypeError) as error:
        raise SavedFileError(f"{path}: what it says about its device makes no sense: {error!r}") from error


@contextmanager
def _failing(path: Path) -> Iterator[None]:
    """Turns an OSError into one of ours that names the file."""
    try:
        yield
    except OSError as error:
        raise SavedFileError(f"{path}: {error.strerror or error}") from error
