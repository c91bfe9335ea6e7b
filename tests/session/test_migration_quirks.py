"""Migration by clients that do it as libvfio-user's sample client does: quirks pre-copy and mig-data-read."""

from collections.abc import Iterator

import pytest

from tests.session.harness import Wire
from tests.session.migrating import READ, MigratingDevice, go, read, state
from tests.session.migration_oracle import COMBINATIONS, F, S, oracle
from vfuserver.session import SessionOptions
from vfuserver.vfio import MigrationFlags, MigrationState

EARLY, LATE = [b"what goes", b" ahead"], [b" and the", b" rest"]
WITH_PRECOPY = [flags for flags in COMBINATIONS if F.PRE_COPY in flags]


@pytest.fixture
def flags() -> MigrationFlags:
    return COMBINATIONS[-1]


@pytest.fixture
def moving(flags: MigrationFlags) -> Iterator[MigratingDevice]:
    backend = MigratingDevice(flags)
    backend.account.early, backend.account.late = list(EARLY), list(LATE)
    yield backend
    backend.close()


def negotiated(moving: MigratingDevice, migration: str = "v2", **quirks: str) -> Wire:
    wire = Wire(moving, SessionOptions(migration=migration, quirks=quirks))
    wire.negotiate()
    return wire


@pytest.mark.parametrize("flags", WITH_PRECOPY, ids=lambda flags: flags.name)
@pytest.mark.parametrize("taken", [0, 3, 100])
def test_apart_gives_the_whole_stream_after_precopy(moving: MigratingDevice, flags: MigrationFlags, taken: int) -> None:
    """S3.11: however much of it was read before; the device leaves the group of saving states by direct arcs."""
    wire = negotiated(moving, **{"pre-copy": "apart"})
    for ahead in (S.PRE_COPY, S.PRE_COPY_P2P) if F.P2P in flags else (S.PRE_COPY,):
        go(wire, [S.RUNNING, ahead])
        assert read(wire, taken) == b"".join(EARLY)[:taken]
        moving.account.arcs.clear()
        go(wire, [S.STOP_COPY])
        assert moving.account.arcs == [*(oracle(flags, ahead, S.STOP) or []), (S.STOP, S.STOP_COPY)]
        assert read(wire) == b"".join(EARLY + LATE)
    wire.close()


def test_apart_changes_no_other_way(moving: MigratingDevice) -> None:
    """S3.5."""
    wire = negotiated(moving, **{"pre-copy": "apart"})
    for old in (S.PRE_COPY, S.PRE_COPY_P2P, S.RUNNING, S.STOP):
        for new in set(S) - {S.ERROR, *((S.STOP_COPY,) if old in (S.PRE_COPY, S.PRE_COPY_P2P) else ())}:
            go(wire, [S.RUNNING, old])
            moving.account.arcs.clear()
            go(wire, [new])
            assert moving.account.arcs == oracle(COMBINATIONS[-1], old, new)
    wire.close()


@pytest.mark.parametrize("flags", COMBINATIONS[:2], ids=lambda flags: flags.name)
def test_apart_with_a_device_that_has_no_precopy_of_its_own(moving: MigratingDevice, flags: MigrationFlags) -> None:
    """S3.28: version 1 offers it for every device."""
    wire = negotiated(moving, "both", **{"pre-copy": "apart"})
    go(wire, [S.PRE_COPY, S.STOP_COPY])
    assert moving.account.arcs == oracle(flags, S.RUNNING, S.STOP_COPY)
    assert read(wire) == b"".join(EARLY + LATE)
    wire.close()


@pytest.mark.parametrize("at", [S.PRE_COPY, S.STOP_COPY])
def test_padded_replies_are_as_long_as_asked_for(moving: MigratingDevice, at: MigrationState) -> None:
    """S3.11: size says how many bytes there are, argsz likewise; what is behind them are zeros."""
    wire = negotiated(moving, **{"mig-data-read": "padded"})
    go(wire, [at])
    there = b"".join(EARLY if at is S.PRE_COPY else EARLY + LATE)
    for told in (there[:10], there[10:], b""):
        size = 10 if told == there[:10] else 100
        reply = wire.ask(READ, READ.request.pack(8 + size, size))
        assert reply.payload == READ.request.pack(8 + len(told), len(told)) + told.ljust(size, b"\0")
    assert state(wire) is at
    wire.close()
