"""Which states a device can be in, its direct arcs, and the way between any two states: a table and a search over it.

Theory of operation
-------------------
What a device offers (`MigrationFlags`) decides which states it has and which arcs are direct (S3.4): where there is a
RUNNING_P2P, every way from RUNNING to STOP leads through it, and from PRE_COPY to STOP_COPY through PRE_COPY_P2P. Any
other request is a chain of direct arcs (S3.5): the shortest one in which a state of the saving group stands first,
last, or between two others of the group, because to enter the group is to begin a stream and to leave it is to discard
one. Two ways are blocked though they exist: from STOP_COPY back to a device that runs while it is saved. These rules
give the very ways that the kernel's drivers go (vfio_mig_get_next_state).

It must not know devices, connections or messages.
"""

from collections import deque
from functools import cache
from typing import Final, NamedTuple

from vfuserver.vfio import MigrationFlags, MigrationState

ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P = MigrationState
NONE, P2P, PRECOPY = MigrationFlags(0), MigrationFlags.P2P, MigrationFlags.PRE_COPY


class Arc(NamedTuple):
    """A direct arc of devices that offer all of `needs` and nothing of `unless`."""

    old: MigrationState
    new: MigrationState
    needs: MigrationFlags = NONE
    unless: MigrationFlags = NONE


ARCS: Final = (
    Arc(STOP, STOP_COPY),
    Arc(STOP_COPY, STOP),
    Arc(STOP, RESUMING),
    Arc(RESUMING, STOP),
    Arc(RUNNING, STOP, unless=P2P),
    Arc(STOP, RUNNING, unless=P2P),
    Arc(RUNNING, RUNNING_P2P, P2P),
    Arc(RUNNING_P2P, RUNNING, P2P),
    Arc(RUNNING_P2P, STOP, P2P),
    Arc(STOP, RUNNING_P2P, P2P),
    Arc(RUNNING, PRE_COPY, PRECOPY),
    Arc(PRE_COPY, RUNNING, PRECOPY),
    Arc(PRE_COPY, STOP_COPY, PRECOPY, unless=P2P),
    Arc(PRE_COPY, PRE_COPY_P2P, PRECOPY | P2P),
    Arc(PRE_COPY_P2P, PRE_COPY, PRECOPY | P2P),
    Arc(RUNNING_P2P, PRE_COPY_P2P, PRECOPY | P2P),
    Arc(PRE_COPY_P2P, RUNNING_P2P, PRECOPY | P2P),
    Arc(PRE_COPY_P2P, STOP_COPY, PRECOPY | P2P),
)

SAVING: Final = frozenset({STOP_COPY, PRE_COPY, PRE_COPY_P2P})
"""The saving group: one stream lasts as long as a device stays in it."""

BLOCKED: Final = frozenset({(STOP_COPY, PRE_COPY), (STOP_COPY, PRE_COPY_P2P)})

Path = tuple[MigrationState, ...]


def states(flags: MigrationFlags) -> frozenset[MigrationState]:
    """The states of a device that offers `flags`; ERROR, which nobody can ask for, is not among them."""
    return frozenset(state for arc in _direct(flags) for state in (arc.old, arc.new))


@cache
def path(flags: MigrationFlags, old: MigrationState, new: MigrationState) -> Path | None:
    """The states to go through from `old` to `new`, which is the last of them; () where they are the same. None: there
    is no way."""
    if {old, new} - states(flags) or (old, new) in BLOCKED:
        return None
    arcs = _direct(flags)
    ways: deque[Path] = deque([(old,)])
    while ways:
        way = ways.popleft()
        if way[-1] is new:
            return way[1:]
        ways.extend((*way, arc.new) for arc in arcs if arc.old is way[-1] and _may_go_on(way, arc.new))
    return None


def _direct(flags: MigrationFlags) -> list[Arc]:
    return [arc for arc in ARCS if arc.needs in flags and not arc.unless & flags]


def _may_go_on(way: Path, new: MigrationState) -> bool:
    """Nowhere twice, and no state of the saving group between others than two of the group."""
    inner = way[-1] if len(way) > 1 else None
    return new not in way and (inner not in SAVING or {way[-2], new} <= SAVING)
