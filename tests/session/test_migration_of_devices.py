"""Devices that people write, migrated by messages: the machine above and the device's side below together."""

import asyncio
import hashlib
from collections.abc import Iterator

import pytest

from tests.session.harness import Wire
from tests.session.migrating import GET, feature, get, go, move, read, state, write
from tests.session.migration_oracle import S
from vfuserver import PciDevice, ResetReason, load
from vfuserver.session.features.mig_data_size import MigDataSize
from vfuserver.session.features.migration import Migration
from vfuserver.vfio import MigrationFlags

AHEAD = (S.PRE_COPY, S.STOP_COPY)
PIECE = 1 << 20


def connected(name: str) -> tuple[PciDevice, Wire]:
    device = load(name)()
    wire = Wire(device)
    wire.negotiate()
    return device, wire


@pytest.fixture(params=["testdev", "edu"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[tuple[PciDevice, Wire], tuple[PciDevice, Wire]]]:
    both = connected(request.param), connected(request.param)
    yield both
    for device, wire in both:
        wire.close()
        device.close()


def read_all(wire: Wire, size: int = PIECE) -> bytes:
    return b"".join(iter(lambda: read(wire, size), b""))


def write_all(wire: Wire, data: bytes, size: int = PIECE - 64) -> None:
    for at in range(0, len(data), size):
        assert write(wire, data[at : at + size]) == 0


async def test_device_moves_by_messages(pair: tuple[tuple[PciDevice, Wire], tuple[PciDevice, Wire]]) -> None:
    """S3.11, S3.14, S3.16: what testdev sends ahead, edu does not; the other one has the same state, and runs."""
    (source, one), (target, other) = pair
    source.stop()
    for name in source.declaration.jobs:
        vars(source)[name].start_with((0, 0, 0, 0, 0)[: 1 if name == "compute" else 5 if name == "engine" else 4])
    source.run()
    source.config.write(4, 2, 7)
    (flags,) = get(one, 1, Migration.reply)
    ahead = MigrationFlags.PRE_COPY in MigrationFlags(flags)
    stream = b""
    if ahead:
        go(one, AHEAD[:1])
        stream = read_all(one)
    go(one, AHEAD[1:])
    (left,) = get(one, 9, MigDataSize.reply)
    rest = read_all(one, 4096)
    assert abs(left - len(rest)) < 4096
    go(other, [S.RESUMING])
    write_all(other, stream + rest)
    expected = source.snapshot()
    go(other, [S.STOP])
    assert target.snapshot() == expected
    assert target.config.image == source.config.image
    go(other, [S.RUNNING])
    async with asyncio.timeout(5):
        while any(vars(target)[name].running for name in target.declaration.jobs):
            await asyncio.sleep(0)
    assert state(other) is S.RUNNING
    assert state(one) is S.STOP_COPY


def test_damaged_stream_keeps_resuming_and_reset_gives_running(
    pair: tuple[tuple[PciDevice, Wire], tuple[PciDevice, Wire]],
) -> None:
    """S3.15, S3.6: the device runs as if nothing had been."""
    (_, one), (target, other) = pair
    go(one, [S.STOP_COPY])
    stream = read_all(one)
    before = target.snapshot()
    go(other, [S.RESUMING])
    write_all(other, stream[:-1])
    assert move(other, S.STOP) != 0
    assert (state(other), target.snapshot()) == (S.RESUMING, before)
    target.reset(ResetReason.FLR)
    assert state(other) is S.RUNNING
    go(other, [S.RESUMING])
    write_all(other, stream)
    go(other, [S.RUNNING])


def test_client_that_goes_in_the_middle_leaves_the_device_to_the_next_one(
    pair: tuple[tuple[PciDevice, Wire], tuple[PciDevice, Wire]],
) -> None:
    """S3.23: half a stream was read here, half of it was written there."""
    (source, one), (target, other) = pair
    go(one, [S.STOP_COPY])
    whole = hashlib.sha256(read_all(one)).digest()
    go(one, [S.STOP, S.STOP_COPY])
    go(other, [S.RESUMING])
    write_all(other, read(one, 2000))
    one.close()
    other.close()
    again, there = Wire(source), Wire(target)
    for wire in (again, there):
        wire.negotiate()
        assert state(wire) is S.STOP
    go(again, [S.STOP_COPY])
    stream = read_all(again, 999)
    assert hashlib.sha256(stream).digest() == whole
    go(there, [S.RESUMING])
    write_all(there, stream)
    go(there, [S.RUNNING])
    again.close()
    there.close()


def test_size_can_be_asked_in_every_state(pair: tuple[tuple[PciDevice, Wire], tuple[PciDevice, Wire]]) -> None:
    """S3.13."""
    (_, wire), _ = pair
    for wanted in (S.RUNNING, S.RUNNING_P2P, S.STOP, S.STOP_COPY, S.STOP, S.RESUMING):
        go(wire, [wanted])
        assert feature(wire, 9, GET).errno == 0
        assert get(wire, 9, MigDataSize.reply)[0] > 4000
