"""A writer of cpio archives in the `newc` format, which is what Linux takes as an initramfs.

The format: Linux, Documentation/driver-api/early-userspace/buffer-format.rst. Everything belongs to root, time stamps
are 0, so that the same content gives the same bytes. It knows nothing of kernels.
"""

import stat
from dataclasses import dataclass, field
from pathlib import PurePosixPath

_MAGIC = b"070701"
_ALIGN = 4
_TRAILER = "TRAILER!!!"


@dataclass(slots=True)
class Archive:
    """An archive that grows; `image()` gives the bytes. Missing parent folders are made on the way."""

    _body: bytearray = field(default_factory=bytearray)
    _folders: set[str] = field(default_factory=set)
    _inode: int = 0

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Add the folder `path` (absolute in the guest) and those above it, each once."""
        name = _name(path)
        if not name or name in self._folders:
            return
        self.folder(str(PurePosixPath(name).parent))
        self._folders.add(name)
        self._entry(name, stat.S_IFDIR | mode, b"")

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._add(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self._add(path, stat.S_IFCHR | mode, b"", major, minor)

    def image(self) -> bytes:
        """The whole archive with its trailer."""
        trailer = _record(0, 0, b"", 0, 0, _TRAILER)
        return bytes(self._body) + trailer

    def _add(self, path: str, mode: int, content: bytes, major: int = 0, minor: int = 0) -> None:
        name = _name(path)
        self.folder(str(PurePosixPath(name).parent))
        self._entry(name, mode, content, major, minor)

    def _entry(self, name: str, mode: int, content: bytes, major: int = 0, minor: int = 0) -> None:
        self._inode += 1
        self._body += _record(self._inode, mode, content, major, minor, name)


def _name(path: str) -> str:
    return str(PurePosixPath("/", path)).strip("/") if path not in (".", "") else ""


def _record(inode: int, mode: int, content: bytes, major: int, minor: int, name: str) -> bytes:
    raw = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(raw), 0)
    head = _MAGIC + b"".join(b"%08X" % value for value in fields) + raw
    return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGN)
