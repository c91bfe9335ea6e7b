"""What sequences at random do not come to: the log's own memory, views that lose a part, sums beyond 64 bits."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.iommu.core import set_bits
from vfuserver import _core
from vfuserver.errors import CommandError, DmaError

PAGE: Final = 4096
BOTH: Final = _core.PROT_READ | _core.PROT_WRITE
PAGES: Final = 64


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("edges-test")
    os.ftruncate(fd, PAGES * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def ioas(memfd: int) -> Iterator[_core.Ioas]:
    """Four areas of a page from 0 on, and one of four pages at 0x100000."""
    ioas = _core.Ioas()
    for page in range(4):
        ioas.map(page * PAGE, PAGE, BOTH, memfd, page * PAGE)
    ioas.map(0x100000, 4 * PAGE, BOTH, memfd, 8 * PAGE)
    yield ioas
    ioas.clear()


def refused(call: Callable[[], object]) -> int:
    with pytest.raises((CommandError, DmaError)) as caught:
        call()
    return caught.value.errno


def test_a_view_is_dirty_as_long_as_it_may_be_written(ioas: _core.Ioas) -> None:
    """S3.19: whoever has the address may store at any time, so every report says it again, and once after its end."""
    ioas.log([])
    pin = _core.Pin(ioas, PAGE, 2 * PAGE, BOTH)
    assert set_bits(ioas.report(0, 8, 12)) == [1, 2]
    assert set_bits(ioas.report(0, 8, 12)) == [1, 2]
    del pin
    assert set_bits(ioas.report(0, 8, 12)) == [1, 2]
    assert set_bits(ioas.report(0, 8, 12)) == []


def test_a_view_for_reading_is_clean(ioas: _core.Ioas) -> None:
    ioas.log([])
    pin = _core.Pin(ioas, PAGE, 2 * PAGE, _core.PROT_READ)
    assert set_bits(ioas.report(0, 8, 12)) == []
    pin.revoke()
    assert set_bits(ioas.report(0, 8, 12)) == []


def test_a_view_of_two_areas_stays_dirty_where_one_is_left(ioas: _core.Ioas) -> None:
    """S3.20, S3.21: the unmapped one's bits are gone, also if its place is mapped again; the other one's are not."""
    ioas.log([])
    pin = _core.Pin(ioas, 0, 3 * PAGE, BOTH)
    ioas.unmap(PAGE, PAGE)
    ioas.map(PAGE, PAGE, BOTH)
    assert set_bits(ioas.report(0, 8, 12)) == [0, 2]
    memoryview(pin)[2 * PAGE] = 1
    assert ioas.revoke(PAGE, PAGE) == 1
    assert set_bits(ioas.report(0, 8, 12)) == [0, 2]


def test_what_is_unmapped_unreported_is_counted_where_it_was_logged(ioas: _core.Ioas) -> None:
    """S3.21."""
    ioas.log([(0, 2 * PAGE - 1)])
    for page in range(4):
        ioas.write(page * PAGE, b"x")
    ioas.unmap(0, 4 * PAGE)
    assert ioas.unreported == 2


@pytest.mark.parametrize("beyond", [2**64, 2**64 + PAGE, 2**80, -1])
def test_an_address_beyond_64_bits_is_efault_and_not_address_0(ioas: _core.Ioas, memfd: int, beyond: int) -> None:
    """A model adds to what the guest gave it."""
    calls: list[Callable[[], object]] = [
        lambda: ioas.read(beyond, 4),
        lambda: ioas.read_into(beyond, bytearray(4)),
        lambda: ioas.write(beyond, b"lost"),
        lambda: ioas.read_unproven(beyond, 4),
        lambda: ioas.write_unproven(beyond, b"lost"),
        lambda: ioas.copy(beyond, 0, 4),
        lambda: ioas.copy(0, beyond, 4),
        lambda: ioas.plan(beyond, 4, BOTH),
        lambda: ioas.atomic(_core.STORE, beyond, 4, 1),
        lambda: ioas.preadv(memfd, [(beyond, 4)], 0),
        lambda: _core.Pin(ioas, beyond, 4, BOTH),
    ]
    assert {refused(call) for call in calls} == {errno.EFAULT}
    assert os.pread(memfd, 4 * PAGE, 0) == bytes(4 * PAGE)


def test_a_negative_length_is_einval(ioas: _core.Ioas) -> None:
    assert refused(lambda: ioas.read(0, -1)) == errno.EINVAL


def test_a_report_inside_a_page_is_einval(ioas: _core.Ioas) -> None:
    """S3.19: its bits would be cleared for pages of which it can only tell a part."""
    ioas.log([])
    ioas.write(0, b"x")
    assert refused(lambda: ioas.report(0x800, 1, 12)) == errno.EINVAL
    assert set_bits(ioas.report(0, 1, 12)) == [0]


def resident() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def test_a_client_that_spreads_its_maps_cannot_fill_the_server_with_bits(memfd: int) -> None:
    """At some size of the log everything is dirty, which is never too little; and a report still ends."""
    ioas, step = _core.Ioas(), 2**64 // 16384
    for number in range(16384):
        ioas.map(number * step, PAGE, BOTH, memfd)
    ioas.log([(0, 2**63 - 1)])
    before = resident()
    for number in range(16384):
        ioas.write(number * step, b"x")
    assert resident() - before < 512 << 20
    assert set_bits(ioas.report(8191 * step, 2, 12)) == [0, 1]
    assert set_bits(ioas.report(0, 4, 62)) == [0, 1]


@pytest.mark.parametrize("way", [_core.ACCESS_FILE, _core.ACCESS_MAPPED])
def test_a_copy_with_a_cut_file_kills_its_source_whoever_met_the_hole(ioas: _core.Ioas, way: int) -> None:
    """S1.12: the kernel meets it where the other side is reached by file I/O."""
    other = os.memfd_create("edges-other")
    os.ftruncate(other, 4 * PAGE)
    ioas.map(0x200000, 4 * PAGE, BOTH, other)
    os.ftruncate(other, 0)
    file = os.memfd_create("edges-file")
    os.ftruncate(file, 4 * PAGE)
    ioas.map(0x300000, 4 * PAGE, BOTH, file, 0, way)
    assert refused(lambda: ioas.copy(0x300000, 0x200000, PAGE)) == errno.EFAULT
    assert sorted(source["dead"] for source in _core.sources()) == [False, False, True]
    os.close(other)
    os.close(file)
