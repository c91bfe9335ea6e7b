"""From what a person calls a server, its socket or its process id, to its control socket.

A process's sockets are in /proc/PID/fd by inode, and their names in /proc/PID/net/unix: nothing has to be written down
anywhere when a server starts, or removed when it is killed. It must not know what is asked there.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vfuserver.control.place import SUFFIX, beside
from vfuserver.errors import UsageError

_ACCEPTS: Final = 0x10000
"""__SO_ACCEPTCON in the flags of /proc/net/unix: it listens."""
_COLUMNS: Final = 8
"""Num, RefCount, Protocol, Flags, Type, St, Inode, Path; sockets without a name lack the last."""


def control_socket(target: str) -> Path:
    """The control socket of the server that `target` means: its socket, or its process id if it is all digits.

    UsageError: there is no such socket, no such process, or none that we may look at, or it has no control socket.
    """
    if target.isascii() and target.isdigit():
        return _of_process(int(target))
    path, control = Path(target), beside(Path(target))
    try:
        if control.exists():
            return control
        found = path.exists()
    except OSError as error:
        raise UsageError(f"cannot look for {control}: {error.strerror}") from error
    if not found:
        raise UsageError(f"there is no socket {path}: must be the socket that a vfuserver serves, or its process id")
    raise UsageError(f"{path} has no control socket {control.name} beside it: it is not served by vfuserver")


def _of_process(pid: int) -> Path:
    """Its own, or that of a child: a supervisor, and what stays of a server that was replaced, serve nothing."""
    try:
        found = next(filter(None, map(_own_control, (pid, *_children(pid)))), None)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise UsageError(f"there is no process {pid}; a socket of that name is ./{pid}") from error
    except PermissionError as error:
        raise UsageError(f"process {pid} is another user's: its sockets cannot be looked at") from error
    if found is None:
        raise UsageError(f"process {pid} has no control socket: it is no vfuserver, or serves inherited sockets (--fd)")
    return found


def _own_control(pid: int) -> Path | None:
    sockets = _sockets(pid)
    listening = {name for inode, name in _listening(pid) if inode in sockets}
    controls = sorted(name for name in listening if name.endswith(SUFFIX) and name[: -len(SUFFIX)] in listening)
    # a relative name is relative to where the server was started
    return Path(f"/proc/{pid}/cwd") / controls[0] if controls else None


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_bytes().split()]


def _sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kind, _, inode = os.readlink(link).partition(":")
        except FileNotFoundError:
            continue  # closed meanwhile
        if kind == "socket":
            found.add(inode.strip("[]"))
    return found


def _listening(pid: int) -> Iterator[tuple[str, str]]:
    """(inode, name) of every listening UNIX socket with a file in the process's network namespace."""
    for line in Path(f"/proc/{pid}/net/unix").read_text(errors="surrogateescape").splitlines()[1:]:
        columns = line.split(maxsplit=_COLUMNS - 1)
        if len(columns) == _COLUMNS and int(columns[3], 16) & _ACCEPTS and not columns[-1].startswith("@"):
            yield columns[6], columns[-1]
