"""DIRTY_PAGES: the log of writes as clients of migration's version 1 ask for it (S3.29, over S3.18-S3.21)."""

import errno
import os
import struct
from collections.abc import Iterator

import pytest

from tests.session.dma import PAGE, map_
from tests.session.harness import EVERYTHING, Message, Wire, command
from tests.session.migrating import SET, MigratingDevice, feature
from vfuserver.session import SessionOptions
from vfuserver.vfio import Memory

DIRTY_PAGES = command(14)
START, STOP, GET = 1, 2, 4
BASE, SIZE = 0x40000000, 1 << 20
TOP = 1 << 64


@pytest.fixture
def moving() -> Iterator[MigratingDevice]:
    backend = MigratingDevice()
    yield backend
    backend.close()


@pytest.fixture
def wire(moving: MigratingDevice) -> Iterator[Wire]:
    wire = Wire(moving, EVERYTHING)
    wire.negotiate()
    yield wire
    wire.close()


@pytest.fixture
def memory(wire: Wire) -> Memory:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, SIZE)
    map_(wire, BASE, SIZE, fds=(fd,))
    os.close(fd)
    return wire.session.connection.memory


def control(wire: Wire, flags: int, argsz: int = 8) -> int:
    reply = wire.ask(DIRTY_PAGES, DIRTY_PAGES.request.pack(argsz, flags))
    assert reply.payload == b""
    return reply.errno


def ask(wire: Wire, *wanted: int, argsz: int = 4096) -> Message:
    """GET_BITMAP of (iova, size, pgsize, bytes of bitmap)."""
    return wire.ask(DIRTY_PAGES, DIRTY_PAGES.request.pack(argsz, GET) + struct.pack(f"={len(wanted)}Q", *wanted))


def dirty(wire: Wire, iova: int = BASE, size: int = SIZE, page: int = PAGE) -> list[int]:
    """Numbers of the set bits; the reply's form is checked on the way."""
    room = (size // page + 63) // 64 * 8
    reply = ask(wire, iova, size, page, room)
    assert struct.unpack_from("=IIQQQQ", reply.payload) == (40 + room, GET, iova, size, page, room)
    assert len(reply.payload) == 40 + room
    value = int.from_bytes(reply.payload[40:], "little")
    return [bit for bit in range(value.bit_length()) if value >> bit & 1]


def test_pages_that_were_written_are_reported_once(wire: Wire, memory: Memory) -> None:
    """S3.19: a report clears what it has reported."""
    memory.write_now(BASE, b"before")
    assert control(wire, START) == 0
    memory.write_now(BASE + 3 * PAGE - 1, b"two pages")
    memory.write_now(BASE + 70 * PAGE, b"one more")
    assert dirty(wire) == [2, 3, 70]
    assert dirty(wire) == []
    assert control(wire, STOP) == 0


def test_log_is_that_of_version_2(wire: Wire, memory: Memory) -> None:
    """S3.29: started by one face, reported and stopped by the other."""
    assert feature(wire, 6, SET, struct.pack("=QII", PAGE, 0, 0)).errno == 0
    memory.write_now(BASE + PAGE, b"x")
    assert dirty(wire) == [1]
    assert control(wire, STOP) == 0
    assert feature(wire, 7, SET).errno == errno.EINVAL


def test_start_and_stop_are_legal_in_turn(wire: Wire) -> None:
    """S3.18."""
    assert [control(wire, flags) for flags in (STOP, START, START, STOP, STOP)] == [22, 0, 22, 0, 22]


@pytest.mark.parametrize("flags", [0, 3, 5, 6, 7, 8, 9, 1 << 31])
def test_flags_are_exactly_one(wire: Wire, flags: int) -> None:
    assert control(wire, flags, argsz=4096) == errno.EINVAL
    assert control(wire, STOP) == errno.EINVAL


def test_bitmap_without_a_start_is_einval(wire: Wire) -> None:
    """S3.19."""
    assert ask(wire, BASE, SIZE, PAGE, 32).errno == errno.EINVAL


REFUSED = {
    "no range": ((), errno.EINVAL),
    "half a range": ((BASE, SIZE, PAGE), errno.EINVAL),
    "page of 2 KiB": ((BASE, SIZE, 2048, 64), errno.EINVAL),
    "misaligned": ((BASE + 1, SIZE, PAGE, 64), errno.EINVAL),
    "empty": ((BASE, 0, PAGE, 64), errno.EINVAL),
    "wrap": ((TOP - PAGE, 2 * PAGE, PAGE, 64), errno.EOVERFLOW),
    "a bitmap too large": ((0, TOP - PAGE, PAGE, TOP - 1), errno.E2BIG),
    "no room in the bitmap": ((BASE, SIZE, PAGE, 31), errno.EINVAL),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_range_takes_no_bits(wire: Wire, memory: Memory, case: str) -> None:
    wanted, expected = REFUSED[case]
    assert control(wire, START) == 0
    memory.write_now(BASE, b"x")
    assert ask(wire, *wanted).errno == expected
    assert dirty(wire) == [0]


def test_small_argsz_says_what_is_needed_and_takes_no_bits(wire: Wire, memory: Memory) -> None:
    """S3.19."""
    assert control(wire, START) == 0
    memory.write_now(BASE, b"x")
    assert ask(wire, BASE, SIZE, PAGE, 32, argsz=71).payload == struct.pack("=II", 72, GET)
    assert len(ask(wire, BASE, SIZE, PAGE, 64, argsz=72).payload) == 72


@pytest.mark.parametrize("migration", ["v2", "none"])
def test_without_version_1_it_is_unknown(moving: MigratingDevice, migration: str) -> None:
    """S3.1."""
    wire = Wire(moving, SessionOptions(migration=migration))
    wire.negotiate()
    assert control(wire, START) == errno.ENOTSUP
    assert wire.ask(DIRTY_PAGES).errno == errno.ENOTSUP
    wire.close()
