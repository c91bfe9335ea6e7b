"""Listening sockets: made with the right mode, never stolen from a live server, removed by whoever made them.

It must not know loops or sessions. Two servers that start on one path at the same moment take turns by a lock on the
folder, so that a socket which is bound and not listening yet is never mistaken for a stale one.
"""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vfuserver.errors import UsageError

BACKLOG = 16
_PATH_MAX = 107
"""sun_path holds 108 bytes, one of them the NUL (unix(7))."""


class Listener:
    """A listening socket and, if we made it, its file. Close it once; only a file that is still ours is removed."""

    def __init__(self, sock: socket.socket, path: Path | None = None) -> None:
        self.socket = sock
        self.path = path
        self._file = _identity(path) if path else None

    def leave(self) -> None:
        """Another process listens there: only our descriptor is closed."""
        self.socket.close()
        self._file = None

    def close(self) -> None:
        """Stops listening and removes the socket's file."""
        self.socket.close()
        if self.path is not None and self._file is not None and _identity(self.path) == self._file:
            os.unlink(self.path)
        self._file = None


def listen(path: Path, mode: int = 0o600) -> Listener:
    """A non-blocking listening socket at `path` with file mode `mode`.

    A stale socket file (nobody listens) is replaced. UsageError: a live server is there, another kind of file is
    there, the path is too long, or the folder cannot be written.
    """
    if len(os.fsencode(path)) > _PATH_MAX:
        raise UsageError(f"{path} is longer than {_PATH_MAX} bytes, which no UNIX socket can be: choose a shorter path")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        with _folder_locked(path.parent):
            _remove_stale(path)
            os.fchmod(sock.fileno(), mode)  # bind makes the file with the socket's own mode: no moment of a wider one
            sock.bind(os.fspath(path))
            os.chmod(path, mode)  # what the umask has taken away
            sock.listen(BACKLOG)
            return Listener(sock, path)
    except OSError as error:
        sock.close()
        raise UsageError(f"cannot listen on {path}: {error.strerror}") from error
    except UsageError:
        sock.close()
        raise


def adopt(fd: int) -> socket.socket:
    """The socket behind an inherited descriptor (`--fd N`), non-blocking, listening or connected as it came.

    UsageError: not an open descriptor, or not a UNIX stream socket.
    """
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise UsageError(f"--fd {fd} must be an open socket: {error.strerror}") from error
    if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise UsageError(f"--fd {fd} must be a UNIX stream socket, not {sock.family.name} {sock.type.name}")
    os.set_inheritable(fd, False)
    sock.setblocking(False)
    return sock


def is_listening(sock: socket.socket) -> bool:
    """True for a listening socket, False for a connected one."""
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_stale(path: Path) -> None:
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise UsageError(f"{path} exists and is not a socket: remove it, or choose another path")
    if _somebody_listens(path):
        raise UsageError(f"a live server listens on {path}: stop it, or choose another path")
    os.unlink(path)


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        # EAGAIN is a full backlog: somebody lives there
        return probe.connect_ex(os.fspath(path)) not in (errno.ECONNREFUSED, errno.ENOENT)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
