"""The table state x event."""

import itertools

import pytest

from vfuserver.errors import CommandError, LocalError, PeerError, VfuserverError
from vfuserver.session.state import BLAME, TRANSITIONS, Event, State, next_state

EXPECTED_ERRORS = {
    State.FRESH: PeerError,
    State.READY: CommandError,
    State.HELD: LocalError,
    State.CLOSED: LocalError,
}


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_an_event_is_legal_or_refused_by_name(state: State, event: Event) -> None:
    if event in TRANSITIONS[state]:
        assert next_state(state, event, "edu#1", "SOMETHING") is TRANSITIONS[state][event]
        return
    with pytest.raises(EXPECTED_ERRORS[state]) as caught:
        next_state(state, event, "edu#1", "SOMETHING")
    for party in ("edu#1", "SOMETHING", event.value, state.value):
        assert party in str(caught.value)


def test_every_state_is_in_both_tables() -> None:
    assert TRANSITIONS.keys() == BLAME.keys() == set(State)


def test_every_state_can_be_closed() -> None:
    assert all(row[Event.CLOSE] is State.CLOSED for row in TRANSITIONS.values())


def test_every_state_can_be_reached() -> None:
    reached, frontier = {State.FRESH}, [State.FRESH]
    while frontier:
        for state in TRANSITIONS[frontier.pop()].values():
            if state not in reached:
                reached.add(state)
                frontier.append(state)
    assert reached == set(State)


def test_blame_makes_errors_of_the_tree() -> None:
    assert all(isinstance(make("text"), VfuserverError) for make in BLAME.values())
