"""Every state from every state, by both faces, for every device and every way of offering it (S3.4, S3.5, S3.27).

States are reached over the wire: by asking for them, or, where that is not possible, by an arc that fails there.
"""

import errno
from collections.abc import Iterator

import pytest

from tests.session.harness import Wire
from tests.session.migrating import MigratingDevice, get, go, move, state
from tests.session.migration_oracle import ASKED, BOTH, OFFERS, F, Offer, S
from tests.session.version_1 import STATE, load, store
from vfuserver.errors import CommandError
from vfuserver.session import SessionOptions
from vfuserver.session.commands.device_reset import DeviceReset
from vfuserver.session.features.migration import Migration
from vfuserver.session.migration_arcs import states
from vfuserver.vfio import MigrationError, MigrationState

VALUES = (*S, 8, 0xABCD, 0xFFFFFFFF)
BEFORE_HIDDEN = {S.RUNNING_P2P: S.RUNNING, S.PRE_COPY_P2P: S.PRE_COPY}
AFTER_HIDDEN = {S.RUNNING_P2P: S.STOP, S.PRE_COPY_P2P: S.STOP_COPY}
"""Ways on which a client passes a state that it is not told of."""


@pytest.fixture
def moving(offer: Offer) -> Iterator[MigratingDevice]:
    backend = MigratingDevice(offer.flags)
    yield backend
    backend.close()


@pytest.fixture
def wire(moving: MigratingDevice, offer: Offer) -> Iterator[Wire]:
    wire = Wire(moving, SessionOptions(migration=offer.migration, hide_peer_to_peer=offer.hidden))
    wire.negotiate()
    yield wire
    wire.close()


def by(*faces: str) -> list[Offer]:
    return [offer for offer in OFFERS if offer.migration in faces]


def stand(wire: Wire, moving: MigratingDevice, offer: Offer, where: MigrationState) -> None:
    """Brings the device there, by features, from a reset."""
    account = moving.account
    assert wire.ask(DeviceReset).errno == 0
    if where is S.ERROR:
        first = S.RUNNING_P2P if F.P2P in offer.flags else S.STOP
        account.fails = {(S.RUNNING, first): MigrationError(errno.ENOSPC, "as asked")}
        assert move(wire, S.STOP) == errno.ENOSPC
    elif where in offer.states:
        go(wire, [where])
    else:
        go(wire, [BEFORE_HIDDEN[where]])
        account.fails = {(where, AFTER_HIDDEN[where]): CommandError(errno.ENOSPC, "as asked")}
        assert move(wire, AFTER_HIDDEN[where]) == errno.ENOSPC
    account.fails = {}
    account.arcs.clear()
    assert state(wire) is where


@pytest.mark.parametrize(
    ("offer", "old"),
    [(offer, old) for offer in by("v2", "both") for old in offer.all_states],
    ids=lambda value: value.name,
)
def test_matrix_of_version_2_is_that_of_the_oracle(
    moving: MigratingDevice, wire: Wire, offer: Offer, old: MigrationState
) -> None:
    """S3.2, S3.4, S3.5: the arcs are the oracle's, or EINVAL and nothing has happened."""
    account = moving.account
    for value in VALUES:
        stand(wire, moving, offer, old)
        expected = offer.arcs(old, value)
        assert move(wire, value) == (errno.EINVAL if expected is None else 0), value
        assert account.arcs == (expected or [])
        now = old if expected is None else S(value)
        assert state(wire) is now
        assert account.here is (S.ERROR if now is S.ERROR else offer.plain(now))


@pytest.mark.parametrize("offer", by("v1", "both"), ids=lambda offer: offer.name)
@pytest.mark.parametrize("first", range(16))
def test_matrix_of_version_1_is_that_of_the_oracle(
    moving: MigratingDevice, wire: Wire, offer: Offer, first: int
) -> None:
    """S3.27: all 16 values from all 16; what is written to one face reads the same in both (S3.1)."""
    for second in range(16):
        assert wire.ask(DeviceReset).errno == 0
        error = first == BOTH[S.ERROR]
        here = fallen(wire, moving, offer) if error else written(wire, moving, offer, S.RUNNING, first)
        written(wire, moving, offer, here, second)


def fallen(wire: Wire, moving: MigratingDevice, offer: Offer) -> MigrationState:
    """Makes an arc end in ERROR."""
    first = S.RUNNING_P2P if F.P2P in offer.flags else S.STOP
    moving.account.fails = {(S.RUNNING, first): MigrationError(errno.ENOSPC, "as asked")}
    assert store(wire, STATE, BOTH[S.STOP]) == errno.ENOSPC
    moving.account.fails = {}
    return S.ERROR


def written(wire: Wire, moving: MigratingDevice, offer: Offer, here: MigrationState, value: int) -> MigrationState:
    """Writes device_state, and sees that what is right has happened; the state afterwards."""
    moving.account.arcs.clear()
    wanted = ASKED.get(value)
    arcs = None if wanted is None else offer.arcs(here, wanted)
    assert store(wire, STATE, value) == (errno.EINVAL if arcs is None else 0), (here, value)
    assert moving.account.arcs == (arcs or [])
    now = here if arcs is None or wanted is None else wanted
    assert load(wire, STATE) == BOTH[now]
    if offer.migration == "both":
        assert state(wire) is now
    return now


@pytest.mark.parametrize("offer", by("v2", "both"), ids=lambda offer: offer.name)
def test_flags_and_states_are_those_that_are_offered(wire: Wire, offer: Offer) -> None:
    """S3.2: hidden P2P is not told; with version 1 every device has pre-copy."""
    assert get(wire, 1, Migration.reply) == (offer.told,)
    assert states(offer.told) == offer.states
