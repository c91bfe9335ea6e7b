"""One connection, sans I/O: `Session` and what it is configured by. Re-exports only."""

from vfuserver.session.command import COMMANDS, Command, Direction
from vfuserver.session.feature import FEATURES, Feature, Operation
from vfuserver.session.negotiation import Capabilities
from vfuserver.session.options import SessionOptions
from vfuserver.session.ports import Cancellable, Keeper, Schedule, Watch
from vfuserver.session.render import render
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
    "render",
]
