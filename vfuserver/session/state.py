"""The one place that says what may happen when on a connection.

Theory of operation
-------------------
Everything that decides whether an event is legal lives in this table; the rest of the session asks it and obeys.

A connection starts FRESH. The first thing a client says is VERSION; any other command means that it speaks something
else, so the connection closes (requirements.md, page 1; the core refuses it before Python sees it, and this table
says the same). A VERSION that cannot be read as one (too short) is answered with an error and changes nothing.

After VERSION the connection is READY: the device is attached, and every command of the client is legal in any order;
DMA_MAP may come before DEVICE_GET_INFO (QEMU does that) or never. VERSION does not come again: the device is attached
and descriptors have been given on the strength of what was agreed, so a second one is EINVAL and nothing changes.

A command that cannot be answered at once HOLDs the connection: no further command is taken in until the ANSWER is
there (the core keeps them, in order). Replies to our own DMA messages are no commands: they are taken in all the
time, or a command that waits for DMA could never end.

CLOSED is final. What closes a connection is the peer's end of the socket, a broken stream, or the server stopping;
afterwards an event is our own mistake.

An illegal event is a failed look-up. Whose mistake that is depends on the state alone (`BLAME`).
"""

import errno
from collections.abc import Callable
from enum import Enum
from typing import Final

from vfuserver.errors import CommandError, LocalError, PeerError, VfuserverError


class State(Enum):
    """Where a connection stands."""

    FRESH = "before VERSION"
    READY = "negotiated"
    HELD = "waiting for an answer"
    CLOSED = "closed"


class Event(Enum):
    """What happens to a connection."""

    VERSION = "VERSION"
    COMMAND = "a command other than VERSION"
    HOLD = "a command that is answered later"
    ANSWER = "the answer of the held command"
    CLOSE = "the end of the connection"


TRANSITIONS: Final[dict[State, dict[Event, State]]] = {
    State.FRESH: {Event.VERSION: State.READY, Event.CLOSE: State.CLOSED},
    State.READY: {Event.COMMAND: State.READY, Event.HOLD: State.HELD, Event.CLOSE: State.CLOSED},
    State.HELD: {Event.ANSWER: State.READY, Event.CLOSE: State.CLOSED},
    State.CLOSED: {Event.CLOSE: State.CLOSED},
}


def _refused(text: str) -> CommandError:
    return CommandError(errno.EINVAL, text)


BLAME: Final[dict[State, Callable[[str], VfuserverError]]] = {
    State.FRESH: PeerError,
    State.READY: _refused,
    State.HELD: LocalError,
    State.CLOSED: LocalError,
}
"""The error of an event that a state does not know."""


def next_state(state: State, event: Event, who: str, what: str) -> State:
    """The state after `event`. An illegal one raises what BLAME says; its text names connection, event and state."""
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise BLAME[state](f"{who}: {what} ({event.value}) is not legal in state {state.value!r}") from None
