"""The stream over the wire: MIG_DATA_READ, MIG_DATA_WRITE, and what is said about its size (S3.11-S3.14, S3.17)."""

import errno
from collections.abc import Iterator

import pytest

from tests.session.harness import Wire
from tests.session.migrating import PRECOPY_INFO, READ, WRITE, MigratingDevice, get, go, move, put, read, write
from tests.session.migration_oracle import GROUP, S
from vfuserver.errors import CommandError
from vfuserver.session import Command, SessionOptions
from vfuserver.session.features.mig_data_size import MigDataSize
from vfuserver.vfio import MigrationState

MOST = 1 << 20
EARLY, LATE = [b"ea", b"rly ", b"bytes"], [b"la", b"te", b" bytes"]


@pytest.fixture
def moving() -> Iterator[MigratingDevice]:
    backend = MigratingDevice()
    backend.account.early, backend.account.late = list(EARLY), list(LATE)
    yield backend
    backend.close()


@pytest.fixture
def wire(moving: MigratingDevice) -> Iterator[Wire]:
    wire = Wire(moving)
    wire.negotiate()
    yield wire
    wire.close()


each_state = pytest.mark.parametrize("at", S, ids=lambda state: state.name)


# -- reading


@each_state
def test_reading_is_legal_in_saving_states_only(moving: MigratingDevice, wire: Wire, at: MigrationState) -> None:
    """S3.11."""
    put(moving, at)
    expected = 0 if at in GROUP else errno.EINVAL
    assert wire.ask(READ, READ.request.pack(12, 4)).errno == expected


@pytest.mark.parametrize("size", [1, 3, 7, MOST])
def test_stream_is_the_same_in_pieces_of_any_size(wire: Wire, size: int) -> None:
    """S3.11, S3.12: read in PRE_COPY until there is nothing now, then to the end, which stays the end."""
    stream = b""
    for at in (S.PRE_COPY, S.STOP_COPY):
        go(wire, [at])
        while piece := read(wire, size):
            stream += piece
    assert stream == b"".join(EARLY + LATE)
    assert [read(wire, size) for _ in range(3)] == [b""] * 3


@pytest.mark.parametrize("taken", range(len(b"".join(EARLY)) + 1))
def test_what_was_left_of_precopy_is_read_in_stop_copy(wire: Wire, taken: int) -> None:
    """S3.12: a client may leave PRE_COPY with data unread, by way of PRE_COPY_P2P too."""
    go(wire, [S.PRE_COPY])
    stream = read(wire, taken)
    go(wire, [S.PRE_COPY_P2P, S.STOP_COPY])
    assert stream + read(wire) == b"".join(EARLY + LATE)


def test_fewer_bytes_than_asked_for_are_all_there_are(wire: Wire) -> None:
    """S3.11: what the device gives in small pieces comes in one."""
    go(wire, [S.STOP_COPY])
    whole = b"".join(EARLY + LATE)
    assert [read(wire, len(whole) - 1), read(wire, 2)] == [whole[:-1], whole[-1:]]


def test_nothing_comes_after_the_end(moving: MigratingDevice, wire: Wire) -> None:
    """S3.12: whatever a model does."""
    go(wire, [S.STOP_COPY])
    read(wire)
    moving.account._late.append(b"afterthought")
    assert read(wire) == b""
    go(wire, [S.STOP, S.STOP_COPY])
    assert read(wire) == b"".join(EARLY + LATE)


def test_nothing_now_in_precopy_is_not_the_end(moving: MigratingDevice, wire: Wire) -> None:
    """S3.12."""
    go(wire, [S.PRE_COPY])
    read(wire)
    assert read(wire) == b""
    moving.account._early.append(b"more")
    assert read(wire) == b"more"


@pytest.mark.parametrize("way", [[S.RUNNING, S.PRE_COPY], [S.RUNNING_P2P, S.PRE_COPY_P2P], [S.STOP, S.STOP_COPY]])
def test_leaving_the_group_discards_the_stream(wire: Wire, way: list[MigrationState]) -> None:
    """S3.11."""
    go(wire, [S.PRE_COPY])
    assert read(wire, 3) == b"ear"
    go(wire, way)
    assert read(wire, 3) == b"ear"


@pytest.mark.parametrize(
    ("argsz", "size", "expected"),
    [
        (8, 0, 0),
        (7, 0, errno.EINVAL),
        (11, 4, errno.EINVAL),
        (12, 4, 0),
        (0xFFFFFFFF, 4, 0),
        (MOST + 8, MOST, 0),
        (MOST + 9, MOST + 1, errno.EINVAL),
        (0xFFFFFFFF, 0xFFFFFFFF, errno.EINVAL),
    ],
)
def test_sizes_of_a_read(wire: Wire, argsz: int, size: int, expected: int) -> None:
    """S3.11: at most max_data_xfer_size, and argsz has room for it."""
    go(wire, [S.STOP_COPY])
    assert wire.ask(READ, READ.request.pack(argsz, size)).errno == expected


def test_model_that_fails_loses_nothing(moving: MigratingDevice, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that fails at its second piece: the first one is still there."""
    go(wire, [S.STOP_COPY])
    own, asked = moving.account.read, iter(range(100))

    def fails_once(size: int) -> bytes:
        if next(asked) == 1:
            raise CommandError(errno.ENOMEM, "as asked")
        return own(size)

    monkeypatch.setattr(moving.account, "read", fails_once)
    assert wire.ask(READ, READ.request.pack(108, 100)).errno == errno.ENOMEM
    assert read(wire) == b"".join(EARLY + LATE)


def test_model_that_gives_too_much_is_eio(moving: MigratingDevice, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    go(wire, [S.STOP_COPY])
    monkeypatch.setattr(moving.account, "read", lambda size: bytes(size + 1))
    assert wire.ask(READ, READ.request.pack(12, 4)).errno == errno.EIO
    assert wire.session.stream.broken is None


# -- writing


@each_state
def test_writing_is_legal_in_resuming_only(moving: MigratingDevice, wire: Wire, at: MigrationState) -> None:
    """S3.14."""
    put(moving, at)
    assert write(wire, b"data") == (0 if at is S.RESUMING else errno.EINVAL)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_stream_is_loaded_from_pieces_of_any_size(moving: MigratingDevice, wire: Wire, size: int) -> None:
    """S3.14."""
    stream = bytes(range(34, 256)) * 20
    moving.account.complete = stream
    go(wire, [S.RESUMING])
    for start in range(0, len(stream), size):
        assert write(wire, stream[start : start + size]) == 0
    go(wire, [S.RUNNING])
    assert bytes(moving.account.loaded) == stream


def test_stream_that_the_device_refuses_leaves_it_resuming(moving: MigratingDevice, wire: Wire) -> None:
    """S3.15: nothing runs with half a state."""
    moving.account.complete = b"the whole of it"
    go(wire, [S.RESUMING])
    assert write(wire, b"!") == errno.EBADMSG
    assert write(wire, b"the whole") == 0
    assert move(wire, S.RUNNING) == errno.EPROTO
    assert moving.migration_state is S.RESUMING


@pytest.mark.parametrize(
    ("argsz", "size", "length", "expected"),
    [
        (8, 0, 0, 0),
        (12, 4, 4, 0),
        (12, 4, 6, 0),
        (12, 4, 3, errno.EINVAL),
        (11, 4, 4, errno.EINVAL),
        (MOST + 8, MOST, MOST, 0),
        (0xFFFFFFFF, MOST + 1, 16, errno.EINVAL),
        (0xFFFFFFFF, 4, 4, 0),
    ],
)
def test_sizes_of_a_write(wire: Wire, argsz: int, size: int, length: int, expected: int) -> None:
    """S3.14, S3.17."""
    go(wire, [S.RESUMING])
    reply = wire.ask(WRITE, WRITE.request.pack(argsz, size) + bytes(length))
    assert reply.errno == expected
    assert reply.payload == (b"" if expected else WRITE.reply.pack(8, size))


@pytest.mark.parametrize("command", [READ, WRITE, PRECOPY_INFO], ids=lambda command: command.name)
def test_device_that_does_not_migrate_has_no_stream(
    wire: Wire, moving: MigratingDevice, command: type[Command]
) -> None:
    other = Wire(moving, SessionOptions(migration="none"))
    other.negotiate()
    assert other.ask(command, b"\xff\0\0\0" + bytes(command.request.size - 4)).errno == errno.ENOTTY
    other.close()


# -- sizes


def test_data_size_falls_as_the_stream_is_read(wire: Wire) -> None:
    """S3.13."""
    go(wire, [S.PRE_COPY])
    sizes = []
    for at in (S.PRE_COPY, S.STOP_COPY):
        go(wire, [at])
        for _ in range(8):
            sizes.append(get(wire, 9, MigDataSize.reply)[0])
            read(wire, 2)
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (len(b"".join(EARLY + LATE)), 0)


@each_state
def test_data_size_is_there_in_every_state(moving: MigratingDevice, wire: Wire, at: MigrationState) -> None:
    """S3.13: and asking has no effect."""
    put(moving, at)
    assert get(wire, 9, MigDataSize.reply) == get(wire, 9, MigDataSize.reply)


def test_precopy_info_falls_to_zero(wire: Wire) -> None:
    """S3.13: initial bytes are not zero at first, and asking has no effect."""
    go(wire, [S.PRE_COPY])
    told = []
    for _ in range(len(b"".join(EARLY)) + 1):
        asked = [wire.ask(PRECOPY_INFO, PRECOPY_INFO.request.pack(24, 0, 0, 0)).payload for _ in range(2)]
        assert asked[0] == asked[1]
        told.append(PRECOPY_INFO.reply.unpack(asked[0]))
        read(wire, 1)
    assert told == [(24, 0, initial, 0) for initial in range(len(told) - 1, -1, -1)]


@each_state
def test_precopy_info_is_undefined_outside_of_precopy(moving: MigratingDevice, wire: Wire, at: MigrationState) -> None:
    """S3.13."""
    put(moving, at)
    expected = 0 if at in (S.PRE_COPY, S.PRE_COPY_P2P) else errno.EINVAL
    assert wire.ask(PRECOPY_INFO, PRECOPY_INFO.request.pack(24, 0, 0, 0)).errno == expected
