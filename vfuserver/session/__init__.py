"""One connection, sans I/O: `Session` and what it is configured by. Re-exports only.

Names are imported when they are first asked for (PEP 562): before its first client a server needs SessionOptions alone.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfuserver.session.command import COMMANDS, Command, Direction
    from vfuserver.session.feature import FEATURES, Feature, Operation
    from vfuserver.session.negotiation import Capabilities
    from vfuserver.session.options import SessionOptions
    from vfuserver.session.ports import Cancellable, Keeper, Schedule, Watch
    from vfuserver.session.session import Session
    from vfuserver.session.state import Event, State

__all__ = [
    "COMMANDS",
    "FEATURES",
    "Cancellable",
    "Capabilities",
    "Command",
    "Direction",
    "Event",
    "Feature",
    "Keeper",
    "Operation",
    "Schedule",
    "Session",
    "SessionOptions",
    "State",
    "Watch",
]

_HOMES = {
    "command": ("COMMANDS", "Command", "Direction"),
    "feature": ("FEATURES", "Feature", "Operation"),
    "negotiation": ("Capabilities",),
    "options": ("SessionOptions",),
    "ports": ("Cancellable", "Keeper", "Schedule", "Watch"),
    "session": ("Session",),
    "state": ("Event", "State"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
