"""DMA_LOGGING_START, _STOP and _REPORT (S3.17 to S3.21): what is refused, which bits are set, when they go."""

import errno
import os
import struct
import threading
from collections.abc import Sequence

import pytest

from tests.session.device import LittleDevice
from tests.session.dma import PAGE, UNMAP, map_
from tests.session.harness import Message, Wire, command
from tests.session.migrating import go
from tests.session.migration_oracle import S
from vfuserver import load
from vfuserver.session.feature import Operation
from vfuserver.vfio import Memory

START, STOP, REPORT = 6, 7, 8
MIB, TOP = 1 << 20, 1 << 64
BASE = 0x40000000
FEATURE = command(16)


def feature(wire: Wire, flags: int, data: bytes = b"", argsz: int = 1 << 20) -> Message:
    return wire.ask(FEATURE, FEATURE.request.build(argsz=argsz, flags=flags, data=data))


def start(wire: Wire, ranges: Sequence[tuple[int, int]] = (), page_size: int = PAGE, count: int | None = None) -> int:
    """The errno; a success repeats the request."""
    inline = b"".join(struct.pack("=QQ", *one) for one in ranges)
    request = struct.pack("=QII", page_size, len(ranges) if count is None else count, 0) + inline
    reply = feature(wire, START | Operation.SET, request)
    if not reply.errno:
        assert reply.payload[8:] == struct.pack("=Q", max(page_size, PAGE)) + request[8:]
    return reply.errno


def stop(wire: Wire) -> int:
    return feature(wire, STOP | Operation.SET).errno


def ask(wire: Wire, iova: int, length: int, page_size: int = PAGE, argsz: int = 1 << 20) -> Message:
    return feature(wire, REPORT | Operation.GET, struct.pack("=QQQ", iova, length, page_size), argsz)


def dirty(wire: Wire, iova: int, length: int, page_size: int = PAGE) -> list[int]:
    """Numbers of the set bits; the reply's form is checked on the way."""
    reply = ask(wire, iova, length, page_size)
    assert reply.errno == 0
    argsz, flags, *echoed = struct.unpack_from("=IIQQQ", reply.payload)
    bitmap = reply.payload[32:]
    assert (argsz, flags, echoed) == (len(reply.payload), REPORT | Operation.GET, [iova, length, page_size])
    pages = (length + page_size - 1) // page_size
    assert len(bitmap) == (pages + 63) // 64 * 8
    value = int.from_bytes(bitmap, "little")
    return [bit for bit in range(value.bit_length()) if value >> bit & 1]


@pytest.fixture
def memory(wire: Wire) -> Memory:
    """16 MiB at BASE, mapped, as the device sees it."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 16 * MIB)
    map_(wire, BASE, 16 * MIB, fds=(fd,))
    os.close(fd)
    return wire.session.connection.memory


# -- starting and stopping


@pytest.mark.parametrize("index", [START, STOP, REPORT])
def test_probe_tells_that_logging_is_there(wire: Wire, index: int) -> None:
    """S0.3; field-notes C.9: QEMU probes with argsz 8 and neither GET nor SET."""
    reply = feature(wire, index | Operation.PROBE, argsz=8)
    assert (reply.errno, reply.payload) == (0, struct.pack("=II", 8, index | Operation.PROBE))


WRONG_OPERATIONS = [(START, Operation.GET), (STOP, Operation.GET), (REPORT, Operation.SET)]


@pytest.mark.parametrize(("index", "operation"), WRONG_OPERATIONS)
def test_an_operation_that_makes_no_sense_is_einval(wire: Wire, index: int, operation: int) -> None:
    """S0.3."""
    assert feature(wire, index | operation, bytes(24)).errno == errno.EINVAL


REFUSED = {
    "page size 0": ([], 0, None, errno.EINVAL),
    "page size no power of two": ([], 3 * PAGE, None, errno.EINVAL),
    "iova misaligned": ([(0x800, PAGE)], PAGE, None, errno.EINVAL),
    "length misaligned": ([(0, PAGE + 1)], PAGE, None, errno.EINVAL),
    "misaligned to large pages": ([(PAGE, 2 * MIB)], 2 * MIB, None, errno.EINVAL),
    "empty": ([(PAGE, 0)], PAGE, None, errno.EINVAL),
    "overlap": ([(0, 2 * PAGE), (PAGE, PAGE)], PAGE, None, errno.EINVAL),
    "wrap": ([(TOP - PAGE, 2 * PAGE)], PAGE, None, errno.EOVERFLOW),
    "257 ranges": ([(i * PAGE, PAGE) for i in range(257)], PAGE, None, errno.E2BIG),
    "fewer ranges than were said": ([(0, PAGE)], PAGE, 2, errno.EINVAL),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_start_starts_nothing(wire: Wire, case: str) -> None:
    """S3.18."""
    ranges, page_size, count, expected = REFUSED[case]
    assert start(wire, ranges, page_size, count) == expected
    assert stop(wire) == errno.EINVAL


@pytest.mark.parametrize("page_size", [1, PAGE, 2 * MIB])
def test_start_answers_with_the_page_size_that_it_chose(wire: Wire, page_size: int) -> None:
    """S3.18: the one asked for, at least 4096 (checked in `start`)."""
    assert start(wire, [(0, 2 * MIB)], page_size) == 0


def test_a_range_may_end_at_the_very_top(wire: Wire) -> None:
    assert start(wire, [(TOP - PAGE, PAGE)]) == 0


def test_256_ranges_are_taken(wire: Wire) -> None:
    """S3.18: the kernel's own limit."""
    assert start(wire, [(2 * i * PAGE, PAGE) for i in range(256)]) == 0


def test_start_is_einval_until_stop_and_stop_is_einval_until_start(wire: Wire) -> None:
    """S3.18."""
    assert [start(wire), start(wire), stop(wire), stop(wire), start(wire)] == [0, errno.EINVAL, 0, errno.EINVAL, 0]


@pytest.mark.parametrize("ended_by", ["stop", "reset"])
def test_what_was_logged_ends_with_stop_and_with_reset(wire: Wire, memory: Memory, ended_by: str) -> None:
    """S3.18."""
    start(wire)
    memory.write_now(BASE, b"x")
    assert (stop(wire) if ended_by == "stop" else wire.ask(command(13)).errno) == 0
    assert ask(wire, BASE, PAGE).errno == errno.EINVAL
    assert start(wire) == 0
    assert dirty(wire, BASE, PAGE) == []


def test_the_next_client_starts_without_a_log(wire: Wire, device: LittleDevice) -> None:
    """S3.18: disconnect stops it."""
    start(wire)
    connection = wire.session.connection
    wire.close()
    assert not connection.ioas.logging
    another = Wire(device)
    another.negotiate()
    assert stop(another) == errno.EINVAL
    another.close()


def test_states_of_migration_neither_start_nor_end_it() -> None:
    """S3.18, S3.21: what was written before the device stopped is reported afterwards, or lost with its mapping."""
    device = load("testdev")()
    wire = Wire(device)
    wire.negotiate()
    device.config.write(4, 2, 7)
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 16 * PAGE)
    map_(wire, BASE, 16 * PAGE, fds=(fd,))
    os.close(fd)
    start(wire)
    for at, way in enumerate([(S.PRE_COPY, S.STOP_COPY, S.STOP), (S.RUNNING_P2P,), (S.STOP,)]):
        device.dma.write_now(BASE + at * PAGE, b"x")
        go(wire, way)
        assert start(wire) == errno.EINVAL
        assert dirty(wire, BASE, 16 * PAGE) == [at]
        go(wire, [S.RUNNING])
    assert stop(wire) == 0
    wire.close()
    device.close()


# -- what is reported


def test_writes_are_reported_once_and_reads_never(wire: Wire, memory: Memory) -> None:
    """S3.19."""
    memory.write_now(BASE, b"before")
    start(wire)
    memory.write_now(BASE + 2 * PAGE - 1, b"xy")
    memory.read_now(BASE + 5 * PAGE, PAGE)
    assert dirty(wire, BASE, 16 * PAGE) == [1, 2]
    assert dirty(wire, BASE, 16 * PAGE) == []


def test_file_io_is_logged_too(wire: Wire) -> None:
    """S3.20: the server marks what it writes itself."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, MIB)
    map_(wire, BASE, MIB, 3 | 8, (fd,))
    os.close(fd)
    start(wire)
    wire.session.connection.memory.write_now(BASE + 3 * PAGE, b"x")
    assert dirty(wire, BASE, MIB) == [3]


@pytest.mark.parametrize(("page_size", "expected"), [(PAGE, [255, 256]), (2 * PAGE, [127, 128]), (2 * MIB, [0])])
def test_a_report_may_ask_for_any_page_size(wire: Wire, memory: Memory, page_size: int, expected: list[int]) -> None:
    """S3.19: coarser or finer than what logging was started with."""
    start(wire, page_size=64 * PAGE)
    memory.write_now(BASE + MIB - 1, b"xy")
    assert dirty(wire, BASE, 4 * MIB, page_size) == expected


def test_a_last_page_that_is_not_asked_for_as_a_whole_keeps_its_rest(wire: Wire, memory: Memory) -> None:
    """S3.19: only what was reported is clean."""
    start(wire)
    for page in (0, 3):
        memory.write_now(BASE + 2 * MIB + page * PAGE, b"x")
    assert dirty(wire, BASE, 2 * MIB + 2 * PAGE, 2 * MIB) == [1]
    assert dirty(wire, BASE + 2 * MIB, 4 * PAGE) == [3]


def test_only_the_ranges_of_start_are_reported(wire: Wire, memory: Memory) -> None:
    """S3.18."""
    start(wire, [(BASE + PAGE, PAGE), (BASE + 4 * PAGE, 2 * PAGE)])
    memory.write_now(BASE, bytes(8 * PAGE))
    assert dirty(wire, BASE, 8 * PAGE) == [1, 4, 5]


def test_the_pointer_of_qemu_in_place_of_ranges_means_everything(wire: Wire, memory: Memory) -> None:
    """S3.18: num_ranges, but only eight bytes behind it."""
    request = struct.pack("=QIIQ", PAGE, 3, 0, 0x7FFF12345678)
    reply = feature(wire, START | Operation.SET, request)
    assert (reply.errno, reply.payload[8:]) == (0, request)
    memory.write_now(BASE + 9 * PAGE, b"x")
    assert dirty(wire, BASE, MIB) == [9]


@pytest.mark.parametrize(("iova", "length"), [(0, MIB), (BASE - PAGE, PAGE), (TOP - MIB, MIB), (BASE, 1 << 34)])
def test_holes_are_clean(wire: Wire, memory: Memory, iova: int, length: int) -> None:
    """S3.19: QEMU asks for holes beside ROMs too; that is no error."""
    start(wire)
    memory.write_now(BASE + 7 * PAGE, b"x")
    assert dirty(wire, iova, length) == ([7] if iova == BASE else [])


BAD_REPORTS = {
    "page size 2048": (BASE, PAGE, 2048, errno.EINVAL),
    "page size 0": (BASE, PAGE, 0, errno.EINVAL),
    "page size no power of two": (BASE, PAGE, PAGE + 1, errno.EINVAL),
    "iova misaligned": (BASE + 0x800, PAGE, PAGE, errno.EINVAL),
    "nothing": (BASE, 0, PAGE, errno.EINVAL),
    "wrap": (TOP - PAGE, 2 * PAGE, PAGE, errno.EOVERFLOW),
    "the whole space": (0, TOP - 1, PAGE, errno.E2BIG),
}


@pytest.mark.parametrize("case", BAD_REPORTS)
def test_a_wrong_report_is_refused_and_takes_nothing(wire: Wire, memory: Memory, case: str) -> None:
    """S3.19."""
    start(wire)
    memory.write_now(BASE, b"x")
    *request, expected = BAD_REPORTS[case]
    assert ask(wire, *request).errno == expected
    assert dirty(wire, BASE, PAGE) == [0]


def test_a_report_before_start_is_einval(wire: Wire) -> None:
    """S3.19, also where there is no room for the bitmap."""
    assert [ask(wire, 0, PAGE).errno, ask(wire, 0, PAGE, argsz=8).errno] == [errno.EINVAL] * 2


def test_a_report_without_room_says_how_much_it_needs_and_takes_nothing(wire: Wire, memory: Memory) -> None:
    """S3.19."""
    start(wire)
    memory.write_now(BASE, b"x")
    reply = ask(wire, BASE, 65 * PAGE, argsz=47)
    assert reply.payload == struct.pack("=II", 48, REPORT | Operation.GET)
    assert dirty(wire, BASE, PAGE) == [0]


def test_unmapped_pages_are_nobody_elses(wire: Wire, memory: Memory) -> None:
    """S3.21: after a map at the same place old bits do not appear; what was never asked for is counted."""
    start(wire)
    memory.write_now(BASE + PAGE, b"xy")
    assert not wire.ask(UNMAP, UNMAP.request.pack(24, 0, BASE, 16 * MIB)).errno
    map_(wire, BASE, MIB)
    assert dirty(wire, BASE, MIB) == []
    assert wire.session.connection.ioas.unreported == 1


def test_no_write_is_lost_between_reports_while_threads_write(wire: Wire, memory: Memory) -> None:
    """S3.19: what a report clears was there, what comes later is in the next."""
    start(wire)
    threads, rounds, step = 3, 200, 16 * PAGE
    ioas = wire.session.connection.ioas

    def write(number: int) -> None:
        for i in range(rounds):
            ioas.write(BASE + (i * threads + number) * step, bytes(8192 + 1))

    workers = [threading.Thread(target=write, args=(number,)) for number in range(threads)]
    span = threads * rounds * step
    fd = os.memfd_create("more")
    os.ftruncate(fd, span)
    assert not wire.ask(UNMAP, UNMAP.request.pack(24, 0, BASE, 16 * MIB)).errno
    map_(wire, BASE, span, fds=(fd,))
    os.close(fd)
    for worker in workers:
        worker.start()
    found: list[int] = []
    while any(worker.is_alive() for worker in workers):
        found += dirty(wire, BASE, span)
    for worker in workers:
        worker.join()
    found += dirty(wire, BASE, span)
    assert sorted(set(found)) == [i * 16 + page for i in range(threads * rounds) for page in range(3)]
