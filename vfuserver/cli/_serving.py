"""Devices from what a person asked for to what a Server serves: made, listened for, added.

`serve`, `run` and `demo` use it. It must not know the command line; errors are UsageError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfuserver.errors import UsageError

if TYPE_CHECKING:
    from vfuserver.device import PciDevice
    from vfuserver.engine import Listener, Server


@dataclass(frozen=True, slots=True)
class Wanted:
    """One device to serve: on `socket` (made here) or on the inherited descriptor `fd`.

    `name` is what the log calls it (default: the device's own name), `session` the SessionOptions that were given.
    """

    device: str
    socket: Path | None = None
    fd: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    name: str | None = None
    socket_mode: int = 0o600
    suggest: bool = False
    session: Mapping[str, Any] = field(default_factory=dict)


def make_device(device: str, options: Mapping[str, object], name: str | None = None) -> PciDevice:
    """The device that DEVICE names, powered on. UsageError: no such device or option, or a value that is not legal."""
    from vfuserver.device import load
    from vfuserver.device.option import parse_options

    found = load(device)
    values = parse_options(found.device_name, found.declaration.options, options)
    return found(name=name, **values)


def add(server: Server, wanted: Wanted) -> str:
    """Makes the device, listens, and has `server` serve it from now on; the words after `ready` on stdout."""
    from vfuserver.device import suggest
    from vfuserver.session import SessionOptions

    options = SessionOptions(**wanted.session)
    device = make_device(wanted.device, wanted.options, wanted.name)
    try:
        listener = _listener(wanted)
    except UsageError:
        device.close()
        raise
    if wanted.suggest:
        suggest(device)
    server.add(device, listener, options)
    return f"{device.name} {_address(listener, wanted)}"


def _listener(wanted: Wanted) -> Listener:
    from vfuserver.engine import Listener, adopt, listen

    if wanted.fd is not None:
        return Listener(adopt(wanted.fd))
    if wanted.socket is None:
        raise UsageError(f"device {wanted.device} needs a socket path or a descriptor: give --socket PATH or --fd N")
    return listen(wanted.socket, wanted.socket_mode)


def _address(listener: Listener, wanted: Wanted) -> str:
    """Where clients connect: the path, or the name that an inherited socket has, or which descriptor it was."""
    if wanted.socket is not None:
        return str(wanted.socket)
    name = listener.socket.getsockname()
    return name if isinstance(name, str) and name else f"fd:{wanted.fd}"
