"""The engines by name. An engine's module is imported when it is asked for.

It must not know devices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from vfuserver.engine.listen import Listener
from vfuserver.engine.served import Served
from vfuserver.engine.serving import Serve
from vfuserver.errors import UsageError
from vfuserver.session import SessionOptions
from vfuserver.vfio import Backend

DEFAULT: Final = "vfuserver"
ENGINES: Final = (DEFAULT, "libvfio-user")

STAYS: Final = {
    "libvfio-user": "libvfio-user's connections belong to the library, and go to no other process: stop the server "
    "and start it again"
}
"""Engines whose devices cannot be handed over, and why."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What serves devices: `check` raises UsageError for what it cannot serve, before anything is owned by it."""

    name: str
    check: Callable[[Backend, SessionOptions, Listener], None]
    serve: Serve


def find_engine(name: str) -> Engine:
    """The engine of a name. UsageError: it cannot be used here, and what to do."""
    if name == DEFAULT:
        return Engine(name, lambda _backend, _options, _listener: None, Served)
    from vfuserver.engine import libvfio_user
    from vfuserver.engine.libvfio_user.api import library

    library()
    return Engine(name, libvfio_user.check, libvfio_user.Served)


def require_portable(name: str, what: str) -> None:
    """UsageError unless another process can take over what an engine of this name serves; `what` wants that."""
    if name in STAYS:
        raise UsageError(f"{what}: {STAYS[name]}")
