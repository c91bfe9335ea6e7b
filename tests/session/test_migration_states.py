"""Migration states over the wire: every way, every failure, every end (S3.1-S3.8, S3.23, S3.26)."""

import errno
import logging
from collections.abc import Iterator

import pytest

from tests.session.harness import Wire
from tests.session.migrating import GET, PROBE, SET, MigratingDevice, feature, get, go, move, put, state
from tests.session.migration_oracle import COMBINATIONS, F, S, direct, oracle
from vfuserver.errors import CommandError, UsageError
from vfuserver.session import SessionOptions
from vfuserver.session.commands.device_reset import DeviceReset
from vfuserver.session.features.migration import Migration
from vfuserver.session.migration_arcs import path, states
from vfuserver.vfio import MigrationError, MigrationFlags, MigrationState

ALL = COMBINATIONS[-1]
each_combination = pytest.mark.parametrize("flags", COMBINATIONS, ids=lambda flags: flags.name)


def of(flags: MigrationFlags) -> set[MigrationState]:
    """The states that arcs of S3.4 touch."""
    return {state for arc in direct(flags) for state in arc}


@pytest.fixture
def flags() -> MigrationFlags:
    return ALL


@pytest.fixture
def moving(flags: MigrationFlags) -> Iterator[MigratingDevice]:
    backend = MigratingDevice(flags)
    yield backend
    backend.close()


@pytest.fixture
def wire(moving: MigratingDevice) -> Iterator[Wire]:
    wire = Wire(moving)
    wire.negotiate()
    yield wire
    wire.close()


# -- ways


KERNEL = {
    "pre_copy -> pre_copy_p2p -> stop_copy": (S.PRE_COPY, S.STOP_COPY),
    "pre_copy -> running -> running_p2p -> stop -> resuming": (S.PRE_COPY, S.RESUMING),
    "pre_copy_p2p -> running_p2p -> running": (S.PRE_COPY_P2P, S.RUNNING),
    "resuming -> stop -> running_p2p -> running -> pre_copy": (S.RESUMING, S.PRE_COPY),
    "resuming -> stop -> running_p2p -> pre_copy_p2p": (S.RESUMING, S.PRE_COPY_P2P),
    "running -> running_p2p -> pre_copy_p2p": (S.RUNNING, S.PRE_COPY_P2P),
    "running_p2p -> running -> pre_copy": (S.RUNNING_P2P, S.PRE_COPY),
    "stop_copy -> stop -> running_p2p -> running": (S.STOP_COPY, S.RUNNING),
}


@pytest.mark.parametrize("way", KERNEL)
def test_ways_are_those_of_the_kernel(way: str) -> None:
    """S3.5: chains that drivers/vfio goes through if all is supported."""
    old, new = KERNEL[way]
    assert [old, *(path(ALL, old, new) or ())] == [MigrationState[name.upper()] for name in way.split(" -> ")]


@each_combination
def test_states_are_those_that_the_arcs_touch(flags: MigrationFlags) -> None:
    assert states(flags) == of(flags)


# -- what is offered


@each_combination
def test_flags_are_the_device_s(wire: Wire, flags: MigrationFlags) -> None:
    """S3.2."""
    assert get(wire, 1, Migration.reply) == (flags,)


def test_device_that_does_not_migrate_is_enotty(device: MigratingDevice, fresh: Wire) -> None:
    """S3.2: for GET, SET and PROBE."""
    fresh.negotiate()
    for number in (1, 2, 9, 12):
        for operation in (GET, SET, PROBE, PROBE | GET):
            assert feature(fresh, number, operation, bytes(8)).errno == errno.ENOTTY


@pytest.mark.parametrize("migration", ["none", "v1"])
def test_version_2_that_is_not_wanted_is_enotty(moving: MigratingDevice, migration: str) -> None:
    """S3.1: what an operator has switched off is not there."""
    wire = Wire(moving, SessionOptions(migration=migration))
    wire.negotiate()
    assert [feature(wire, number, PROBE).errno for number in (1, 2, 9, 12)] == [errno.ENOTTY] * 4
    wire.close()


def test_probe_of_what_is_there_succeeds(wire: Wire) -> None:
    operations = {1: GET, 2: GET | SET, 9: GET, 12: SET}
    for number, legal in operations.items():
        assert feature(wire, number, PROBE | legal).errno == 0
        assert feature(wire, number, PROBE | (GET | SET) & ~legal).errno == (0 if legal == GET | SET else errno.EINVAL)


@pytest.mark.parametrize("flags", [F.STOP_COPY, F.STOP_COPY | F.P2P])
def test_precopy_info_v2_needs_precopy(wire: Wire) -> None:
    assert feature(wire, 12, SET).errno == errno.ENOTTY


def test_precopy_info_v2_takes_no_data(wire: Wire) -> None:
    assert feature(wire, 12, SET).errno == 0


def test_hidden_p2p_is_einval_but_still_on_the_way(moving: MigratingDevice) -> None:
    """S3.2, S3.10: hidden, SET to 5 and 7 is EINVAL; the device is quiesced before it stops all the same."""
    wire = Wire(moving, SessionOptions(hide_peer_to_peer=True))
    wire.negotiate()
    assert get(wire, 1, Migration.reply) == (F.STOP_COPY | F.PRE_COPY,)
    assert [move(wire, value) for value in (S.RUNNING_P2P, S.PRE_COPY_P2P)] == [errno.EINVAL] * 2
    assert moving.account.arcs == []
    go(wire, [S.STOP])
    assert moving.account.arcs == [(S.RUNNING, S.RUNNING_P2P), (S.RUNNING_P2P, S.STOP)]
    wire.close()


@pytest.mark.parametrize(("name", "value"), [("migration", "v3"), ("slow_arc", -1.0)])
def test_impossible_option_is_a_usage_error(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=name):
        SessionOptions(**{name: value})  # type: ignore[arg-type]


# -- the state


def test_fresh_device_runs_and_asking_has_no_effect(moving: MigratingDevice, wire: Wire) -> None:
    """S3.3."""
    for wanted in (S.RUNNING, S.PRE_COPY, S.STOP_COPY, S.STOP, S.RESUMING):
        go(wire, [wanted])
        arcs = list(moving.account.arcs)
        assert [state(wire) for _ in range(3)] == [wanted] * 3
        assert moving.account.arcs == arcs


@pytest.mark.parametrize("length", range(8))
def test_short_state_is_einval(moving: MigratingDevice, wire: Wire, length: int) -> None:
    """S3.17."""
    assert feature(wire, 2, SET, b"\1\0\0\0\xff\xff\xff\xff"[:length]).errno == errno.EINVAL
    assert moving.account.arcs == []


@pytest.mark.parametrize("old", S, ids=lambda state: state.name)
def test_reset_gives_running_from_every_state(moving: MigratingDevice, wire: Wire, old: MigrationState) -> None:
    """S3.6, S3.8: reset is the only way out of ERROR."""
    put(moving, old)
    if old is S.ERROR:
        assert [move(wire, value) for value in S] == [errno.EINVAL] * 8
    assert wire.ask(DeviceReset).errno == 0
    assert state(wire) is S.RUNNING
    go(wire, [S.STOP_COPY, S.RUNNING])


# -- failures


@each_combination
def test_failing_arc_leaves_the_last_state_reached(moving: MigratingDevice, wire: Wire) -> None:
    """S3.7: a fault in each arc of each way; the errno is the model's, GET tells where it ended."""
    account = moving.account
    for old in of(account.flags):
        for new in of(account.flags) - {old}:
            for broken in oracle(account.flags, old, new) or []:
                put(moving, old)
                account.fails = {broken: CommandError(errno.ENOSPC, "as asked")}
                assert move(wire, new) == errno.ENOSPC
                assert state(wire) is account.here is broken[0]
                account.fails = {}
                go(wire, [new] if oracle(account.flags, broken[0], new) is not None else [])


@each_combination
@pytest.mark.parametrize("ends", [S.ERROR, S.STOP], ids=lambda state: state.name)
def test_arc_says_where_its_failure_ended(moving: MigratingDevice, wire: Wire, ends: MigrationState) -> None:
    """S3.7, S3.8: ERROR if nothing valid could be restored."""
    account = moving.account
    for arc in direct(account.flags):
        put(moving, arc[0])
        account.fails = {arc: MigrationError(errno.EPROTO, "as asked", ends)}
        assert move(wire, arc[1]) == errno.EPROTO
        assert state(wire) is ends
        assert move(wire, S.STOP) == (errno.EINVAL if ends is S.ERROR else 0)
        account.fails = {}
        assert wire.ask(DeviceReset).errno == 0
        go(wire, [S.STOP])


def test_exception_of_a_model_is_eio_and_the_server_lives(moving: MigratingDevice, wire: Wire) -> None:
    moving.account.fails = {(S.STOP, S.STOP_COPY): ZeroDivisionError("a model's mistake")}
    assert move(wire, S.STOP_COPY) == errno.EIO
    assert state(wire) is S.STOP
    go(wire, [S.RUNNING])


# -- arcs that take time


def test_slow_arcs_are_answered_after_the_last(moving: MigratingDevice, wire: Wire) -> None:
    """S3.6: one reply, when all is done; meanwhile the state is the last one reached."""
    moving.account.slow = True
    asked = wire.send(16, b"\x10\0\0\0\2\0\2\0" + S.STOP_COPY.to_bytes(4, "little") + b"\xff" * 4)
    for reached in (S.RUNNING_P2P, S.STOP, S.STOP_COPY):
        assert asked == []
        assert moving.migration_state is not reached
        moving.account.finish()
        assert moving.migration_state is reached
        asked = wire.take()
    (reply,) = asked
    assert (reply.errno, reply.payload[8:12]) == (0, S.STOP_COPY.to_bytes(4, "little"))


def test_slow_arc_that_fails_is_its_errno(moving: MigratingDevice, wire: Wire) -> None:
    moving.account.slow = True
    moving.account.fails = {(S.RUNNING_P2P, S.STOP): MigrationError(errno.ENOMEM, "as asked")}
    assert wire.send(16, b"\x10\0\0\0\2\0\2\0" + S.STOP.to_bytes(4, "little") + b"\xff" * 4) == []
    moving.account.finish()
    moving.account.finish()
    (reply,) = wire.take()
    assert reply.errno == errno.ENOMEM
    assert state(wire) is S.ERROR


def test_arc_beyond_the_deadline_is_cancelled(moving: MigratingDevice, wire: Wire) -> None:
    moving.account.slow = True
    assert wire.send(16, b"\x10\0\0\0\2\0\2\0" + S.STOP.to_bytes(4, "little") + b"\xff" * 4) == []
    wire.clock.advance(4.0)
    (reply,) = wire.take()
    assert reply.errno == errno.ETIMEDOUT
    assert moving.account.cancelled == 1
    assert state(wire) is S.RUNNING


def test_every_arc_is_logged_with_its_duration(moving: MigratingDevice, caplog: pytest.LogCaptureFixture) -> None:
    """S3.26: those above the limit warn."""
    caplog.set_level(logging.INFO, "vfuserver.session")
    for slow, level in ((1e9, logging.INFO), (0.0, logging.WARNING)):
        caplog.clear()
        wire = Wire(moving, SessionOptions(slow_arc=slow))
        wire.negotiate()
        go(wire, [S.STOP, S.RUNNING])
        wire.close()
        lines = [record for record in caplog.records if "migration:" in record.message]
        assert [record.levelno for record in lines] == [level] * 4
        assert "RUNNING to RUNNING_P2P in " in lines[0].message


# -- the end of a connection


ENDS = {
    S.ERROR: S.ERROR,
    S.STOP: S.STOP,
    S.RUNNING: S.RUNNING,
    S.STOP_COPY: S.STOP,
    S.RESUMING: S.STOP,
    S.RUNNING_P2P: S.RUNNING_P2P,
    S.PRE_COPY: S.RUNNING,
    S.PRE_COPY_P2P: S.RUNNING_P2P,
}


@pytest.mark.parametrize("old", S, ids=lambda state: state.name)
def test_client_that_goes_leaves_no_session(moving: MigratingDevice, old: MigrationState) -> None:
    """S3.23: the next client finds what is legal without the first one's stream, and goes on from there."""
    first = Wire(moving)
    first.negotiate()
    put(moving, old)
    first.close()
    second = Wire(moving)
    second.negotiate()
    assert state(second) is moving.account.here is ENDS[old]
    assert moving.account.abandoned == (old is S.RESUMING)
    assert wire_resets(second)
    second.close()


def wire_resets(wire: Wire) -> bool:
    assert wire.ask(DeviceReset).errno == 0
    return state(wire) is S.RUNNING


def test_client_that_goes_while_an_arc_is_under_way_cancels_it(moving: MigratingDevice) -> None:
    """S3.23: the device stays where it was, and what that was is ended."""
    wire = Wire(moving)
    wire.negotiate()
    go(wire, [S.PRE_COPY])
    moving.account.slow = True
    assert wire.send(16, b"\x10\0\0\0\2\0\2\0" + S.STOP_COPY.to_bytes(4, "little") + b"\xff" * 4) == []
    wire.close()
    assert moving.account.cancelled == 1
    assert moving.account.arcs[-1] == (S.PRE_COPY, S.RUNNING)
    moving.account.finish()
    assert moving.migration_state is moving.account.here is S.RUNNING


@pytest.mark.parametrize("slow", [False, True])
def test_device_that_cannot_end_a_session_is_in_error(moving: MigratingDevice, slow: bool) -> None:
    wire = Wire(moving)
    wire.negotiate()
    go(wire, [S.STOP_COPY])
    moving.account.slow = slow
    moving.account.fails = {(S.STOP_COPY, S.STOP): OSError(errno.EIO, "a model's mistake")}
    wire.close()
    if slow:
        moving.account.finish()
    assert moving.migration_state is S.ERROR
