"""The engines by name, and where what they serve lives. An engine's module is imported when it is asked for.

It must not know devices.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from vfuserver.engine.listen import Listener
from vfuserver.engine.served import Served
from vfuserver.engine.serving import Serve
from vfuserver.errors import UsageError
from vfuserver.session import SessionOptions
from vfuserver.session.options import DEDICATED
from vfuserver.vfio import Backend

DEFAULT: Final = "vfuserver"
ENGINES: Final = (DEFAULT, "libvfio-user")

STAYS: Final = {
    "libvfio-user": "libvfio-user's connections belong to the library, and go to no other process: stop the server "
    "and start it again"
}
"""Engines whose devices cannot be handed over, and why."""


T = TypeVar("T")


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


class Home(Protocol):
    """Where a device is made, served and closed: all functions of a card have one."""

    @property
    def serve(self) -> Serve:
        """What Server.add() takes."""

    def call_patiently(self, function: Callable[[], T]) -> T:
        """Calls it there, and waits for what it returns or raises."""

    def end(self) -> None:
        """Nothing was served there, or nothing is any more. Idempotent."""


@dataclass(frozen=True, slots=True)
class Here:
    """The server's own thread."""

    serve: Serve

    def call_patiently(self, function: Callable[[], T]) -> T:
        """Calls it."""
        return function()

    def end(self) -> None:
        """It goes on."""


def find_home(engine: Engine, poll: str, name: str) -> Home:
    """Where what is polled so is to live; `name` is what a thread of its own is called. UsageError: not this engine."""
    if poll != DEDICATED:
        return Here(engine.serve)
    if engine.name != DEFAULT:
        raise UsageError(f"{name}: {engine.name} is not polled by a thread of its own: leave --engine or --poll out")
    from vfuserver.engine.device_thread import DeviceThread

    return DeviceThread(name, asyncio.get_running_loop())


def require_portable(name: str, what: str) -> None:
    """UsageError unless another process can take over what an engine of this name serves; `what` wants that."""
    if name in STAYS:
        raise UsageError(f"{what}: {STAYS[name]}")
