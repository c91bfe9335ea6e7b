"""Migration's version 1: the region, a second face of the same machine (S3.1, S3.27-S3.29)."""

import errno
import struct
from collections.abc import Iterator

import pytest

from tests.session.harness import Message, Wire, command
from tests.session.migrating import MigratingDevice, go, put, read, state, write
from tests.session.migration_oracle import BOTH, COMBINATIONS, F, S, oracle
from tests.session.version_1 import (
    DATA,
    OFFSET,
    PENDING,
    REGION,
    REGION_READ,
    REGION_WRITE,
    RESERVED,
    SEGMENT,
    SIZE,
    STATE,
    get_bytes,
    load,
    put_bytes,
    segments,
    store,
)
from vfuserver.errors import CommandError
from vfuserver.session import SessionOptions
from vfuserver.session.commands.device_get_region_info import DeviceGetRegionInfo
from vfuserver.session.commands.device_reset import DeviceReset
from vfuserver.vfio import MigrationError, MigrationFlags, MigrationState

INFO, DEVICE_INFO = DeviceGetRegionInfo, command(4)
STREAM = [bytes([n]) * (n * 977 % 5000 + 1) for n in range(1, 20)]


def v1(moving: MigratingDevice, migration: str = "both") -> Wire:
    wire = Wire(moving, SessionOptions(migration=migration, max_data_xfer_size=SEGMENT))
    wire.negotiate()
    return wire


@pytest.fixture
def flags() -> MigrationFlags:
    return COMBINATIONS[-1]


@pytest.fixture
def moving(flags: MigrationFlags) -> Iterator[MigratingDevice]:
    backend = MigratingDevice(flags)
    backend.account.early, backend.account.late = STREAM[:9], STREAM[9:]
    yield backend
    backend.close()


@pytest.fixture
def wire(moving: MigratingDevice) -> Iterator[Wire]:
    wire = v1(moving)
    yield wire
    wire.close()


def info(wire: Wire, argsz: int = 4096, index: int = REGION) -> Message:
    return wire.ask(INFO, INFO.request.pack(argsz, 0, index, 0, 0, 0))


# -- the region


@pytest.mark.parametrize("migration", ["v2", "none"])
def test_without_version_1_there_is_no_region(moving: MigratingDevice, migration: str) -> None:
    """S3.1."""
    wire = v1(moving, migration)
    assert info(wire).errno == errno.EINVAL
    assert struct.unpack_from("=I", wire.ask(DEVICE_INFO, bytes([16]) + bytes(15)).payload, 8) == (9,)
    assert wire.ask(REGION_READ, REGION_READ.request.pack(0, REGION, 4)).errno == errno.EINVAL
    wire.close()


@pytest.mark.parametrize("flags", COMBINATIONS, ids=lambda flags: flags.name)
def test_region_says_what_it_is(wire: Wire, flags: MigrationFlags) -> None:
    """S3.27: type 3, subtype 1, and NDMA where P2P is offered."""
    assert struct.unpack_from("=I", wire.ask(DEVICE_INFO, bytes([16]) + bytes(15)).payload, 8) == (10,)
    _, told, index, at, size, _ = INFO.request.unpack(info(wire).payload)
    assert (told, index, at, size) == (0b1011, REGION, 32, DATA + SEGMENT)
    kinds = {}
    while at:
        kind, version, following = struct.unpack_from("=HHI", info(wire).payload, at)
        assert version == 1
        kinds[kind] = info(wire).payload[at + 8 : following or None]
        at = following
    ndma = {6: b""} if F.P2P in flags else {}
    assert kinds == {2: struct.pack("=II", 3, 1)} | ndma


def test_info_without_room_says_how_much_it_needs(wire: Wire) -> None:
    needed = INFO.request.unpack(info(wire, 32).payload)[0]
    assert needed == len(info(wire, needed).payload) == 32 + 16 + 8
    assert len(info(wire, needed - 1).payload) == 32


def test_only_whole_registers_are_legal(wire: Wire) -> None:
    """S3.27: native width and alignment, in both directions."""
    whole = {STATE, RESERVED, PENDING, OFFSET, SIZE}
    for offset in range(48):
        for width in (1, 2, 4, 8, 16):
            expected = 0 if (offset, width) in whole else errno.EINVAL
            request = REGION_READ.request.pack(offset, REGION, width)
            assert wire.ask(REGION_READ, request).errno == expected, (offset, width)
            if expected:
                assert put_bytes(wire, offset, bytes(width)) == errno.EINVAL
    assert wire.ask(REGION_READ, REGION_READ.request.pack(DATA - 4, REGION, 8)).errno == errno.EINVAL


def test_registers_that_can_only_be_read(wire: Wire) -> None:
    assert [store(wire, register, 5) for register in (PENDING, OFFSET)] == [errno.EINVAL] * 2


def test_reserved_reads_zero_and_ignores_writes(moving: MigratingDevice, wire: Wire) -> None:
    """S3.27; reserved bits of device_state too (S3.17)."""
    assert (store(wire, RESERVED, 0xFFFFFFFF), load(wire, RESERVED)) == (0, 0)
    assert (store(wire, STATE, 0xFFFFFFF0), load(wire, STATE)) == (0, 0)
    assert moving.migration_state is S.STOP


# -- states


def test_states_of_version_2_are_seen_in_version_1(wire: Wire) -> None:
    """S3.1: both faces never contradict each other."""
    for where in (S.PRE_COPY, S.PRE_COPY_P2P, S.STOP_COPY, S.STOP, S.RESUMING, S.RUNNING_P2P, S.RUNNING):
        go(wire, [where])
        assert load(wire, STATE) == BOTH[where]


def test_failed_transition_is_the_errno_of_the_write(moving: MigratingDevice, wire: Wire) -> None:
    """S3.27: and leaves the old state, or ERROR, which only reset leaves."""
    moving.account.fails = {(S.RUNNING, S.PRE_COPY): CommandError(errno.ENOSPC, "as asked")}
    assert store(wire, STATE, BOTH[S.PRE_COPY]) == errno.ENOSPC
    assert load(wire, STATE) == BOTH[S.RUNNING]
    moving.account.fails = {(S.RUNNING, S.RUNNING_P2P): MigrationError(errno.ENOSPC, "as asked")}
    assert store(wire, STATE, 0) == errno.ENOSPC
    assert load(wire, STATE) == BOTH[S.ERROR]
    assert [store(wire, STATE, value) for value in range(16)] == [errno.EINVAL] * 16
    assert wire.ask(DeviceReset).errno == 0
    assert load(wire, STATE) == BOTH[S.RUNNING]


def test_write_of_device_state_waits_for_slow_arcs(moving: MigratingDevice, wire: Wire) -> None:
    """S3.6."""
    moving.account.slow = True
    assert wire.send(10, REGION_WRITE.request.pack(0, REGION, 4) + bytes(4)) == []
    moving.account.finish()
    assert wire.take() == []
    moving.account.finish()
    (reply,) = wire.take()
    assert reply.errno == 0
    assert load(wire, STATE) == 0


@pytest.mark.parametrize("flags", COMBINATIONS[:2], ids=lambda flags: flags.name)
def test_device_without_precopy_just_runs_there(moving: MigratingDevice, wire: Wire, flags: MigrationFlags) -> None:
    """Version 1 knows no device without pre-copy: its clients always go through it."""
    for wanted in (S.PRE_COPY, S.RUNNING, S.PRE_COPY, S.PRE_COPY):
        assert store(wire, STATE, BOTH[wanted]) == 0
        assert state(wire) is wanted
        assert load(wire, PENDING) == 0
    assert moving.account.arcs == []
    assert store(wire, STATE, BOTH[S.STOP_COPY]) == 0
    assert moving.account.arcs == oracle(flags, S.RUNNING, S.STOP_COPY)
    assert b"".join(segments(wire)) == b"".join(STREAM)
    assert store(wire, STATE, BOTH[S.PRE_COPY]) == errno.EINVAL
    assert store(wire, STATE, BOTH[S.RUNNING]) == 0


# -- data


@pytest.mark.parametrize("flags", COMBINATIONS, ids=lambda flags: flags.name)
@pytest.mark.parametrize("drain", [True, False])
def test_stream_is_that_of_version_2(moving: MigratingDevice, wire: Wire, flags: MigrationFlags, drain: bool) -> None:
    """S3.28, S3.29: with pre-copy drained or left alone, or none of it there; the end stays the end."""
    assert store(wire, STATE, BOTH[S.PRE_COPY]) == 0
    told = b"".join(segments(wire)) if drain else b""
    assert told == (b"".join(STREAM[:9]) if drain and F.PRE_COPY in flags else b"")
    assert store(wire, STATE, BOTH[S.STOP_COPY]) == 0
    assert told + b"".join(segments(wire)) == b"".join(STREAM)
    moving.account._late.append(b"afterthought")
    assert [load(wire, PENDING) for _ in range(3)] == [0] * 3


def test_segment_of_precopy_is_acknowledged_in_stop_copy(wire: Wire) -> None:
    """S3.28: what was shown is over when pending_bytes is read, in whatever state; until then it stays."""
    assert store(wire, STATE, BOTH[S.PRE_COPY]) == 0
    assert load(wire, PENDING)
    offset, size = load(wire, OFFSET), load(wire, SIZE)
    first = get_bytes(wire, offset, size)
    assert store(wire, STATE, BOTH[S.STOP_COPY]) == 0
    assert (load(wire, OFFSET), get_bytes(wire, offset, load(wire, SIZE))) == (offset, first)
    assert first + b"".join(segments(wire)) == b"".join(STREAM)


def test_faces_share_one_stream(wire: Wire) -> None:
    """S3.1, S3.29: what one has read, or looked at, the other goes on from."""
    go(wire, [S.STOP_COPY])
    assert load(wire, PENDING)
    told = read(wire, 100)
    rest = segments(wire)
    told += next(rest)
    assert load(wire, PENDING)
    told += read(wire, 7)
    assert told + b"".join(rest) == b"".join(STREAM)


@pytest.mark.parametrize("cut", [1, 1000, SEGMENT])
def test_segments_are_loaded_in_any_size(moving: MigratingDevice, wire: Wire, cut: int) -> None:
    """S3.28: what is at data_offset is consumed by the write of data_size."""
    stream = b"".join(STREAM)[: 40 * cut]
    assert store(wire, STATE, BOTH[S.RESUMING]) == 0
    for start in range(0, len(stream), cut):
        piece = stream[start : start + cut]
        at = load(wire, OFFSET)
        for inner in range(0, len(piece), 700):
            assert put_bytes(wire, at + inner, piece[inner : inner + 700]) == 0
        assert store(wire, SIZE, len(piece)) == 0
        assert len(moving.account.loaded) == start + len(piece)
    assert store(wire, STATE, BOTH[S.RUNNING]) == 0
    assert bytes(moving.account.loaded) == stream


@pytest.mark.parametrize("old", ["v1", "v2"])
def test_saved_by_one_version_and_loaded_by_the_other(moving: MigratingDevice, wire: Wire, old: str) -> None:
    """S3.29."""
    go(wire, [S.STOP_COPY])
    pieces = list(segments(wire)) if old == "v1" else list(iter(lambda: read(wire, 1000), b""))
    go(wire, [S.RESUMING])
    for piece in pieces:
        if old == "v1":
            assert write(wire, piece) == 0
        else:
            assert (put_bytes(wire, DATA, piece), store(wire, SIZE, len(piece))) == (0, 0)
    go(wire, [S.STOP])
    assert bytes(moving.account.loaded) == b"".join(STREAM)


def test_data_that_were_never_written_are_zeros(moving: MigratingDevice, wire: Wire) -> None:
    """S3.28: no memory is disclosed; what an ended session has left there is gone."""
    go(wire, [S.RESUMING])
    assert put_bytes(wire, DATA + 2, b"secret") == 0
    assert store(wire, SIZE, SEGMENT + 1) == errno.EINVAL
    go(wire, [S.STOP, S.RESUMING])
    assert store(wire, SIZE, 4) == 0
    assert put_bytes(wire, DATA + 2, b"x") == 0
    assert store(wire, SIZE, 5) == 0
    assert bytes(moving.account.loaded) == bytes(4) + b"\0\0x\0\0"


@pytest.mark.parametrize("at", S, ids=lambda state: state.name)
def test_fields_outside_their_state_do_no_harm(moving: MigratingDevice, wire: Wire, at: MigrationState) -> None:
    """S3.28."""
    put(moving, at)
    legal = 0 if at is S.RESUMING else errno.EINVAL
    assert put_bytes(wire, DATA, b"data") == legal
    assert store(wire, SIZE, 4) == legal
    assert load(wire, OFFSET) == DATA
    assert get_bytes(wire, DATA + SEGMENT - 8, 8) == bytes(8)
    assert wire.session.stream.broken is None
    assert state(wire) is at
