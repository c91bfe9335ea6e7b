"""An address space that another process goes on with: the same memory, the same log, and each file mapped once."""

import errno
import os
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from tests.iommu.core import set_bits
from vfuserver import _core
from vfuserver.errors import CommandError, DmaError, LocalError

PAGE: Final = 4096
PAGES: Final = 64
BOTH: Final = _core.PROT_READ | _core.PROT_WRITE
RECORD: Final = struct.Struct("<QQQIIQ")
ALL: Final = (0, 2**64 - 1)


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("carry-test")
    os.ftruncate(fd, PAGES * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def space() -> Iterator[Callable[..., _core.Ioas]]:
    """Makes spaces, and clears them at the end."""
    made: list[_core.Ioas] = []

    def make(**limits: int) -> _core.Ioas:
        made.append(_core.Ioas(**limits))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for ioas in made:
        ioas.clear()


Spaces = Callable[..., _core.Ioas]


def refused(call: Callable[[], object]) -> int:
    with pytest.raises((CommandError, DmaError)) as caught:
        call()
    return caught.value.errno


def dead(ioas: _core.Ioas, page: int) -> bool:
    return refused(lambda: ioas.write(page * PAGE, b"x")) == errno.EFAULT


def carried(space: Spaces, old: _core.Ioas, **limits: int) -> _core.Ioas:
    new = space(**limits)
    new.adopt(*old.carry())
    return new


def without_ids(ioas: _core.Ioas) -> list[tuple[int, ...]]:
    return [(*area[:4], area[5]) for area in ioas.areas()]


def test_areas_of_every_kind_are_reached_as_before(space: Spaces, memfd: int) -> None:
    dice, old = random.Random(5), space()
    for page in dice.sample(range(0, 900, 3), 200):
        kind, size = dice.randrange(3), dice.randrange(1, 4) * PAGE
        offset = dice.randrange(PAGES - 4) * PAGE
        fd, ways = (-1, 1) if kind == 0 else (memfd, kind)
        old.map(page * PAGE, size, dice.choice([1, 2, 3]), fd, offset if kind else 0, ways)
    new = carried(space, old)
    assert without_ids(new) == without_ids(old)
    assert (new.count, new.mapped) == (old.count, old.mapped)
    for iova, size, prot, access, _, offset in new.areas():
        if prot & _core.PROT_WRITE and access:
            assert new.write(iova + size - 4, b"mark")
            assert os.pread(memfd, 4, offset + size - 4) == b"mark"
    users = [source["users"] for source in _core.sources() if source["inode"] == os.fstat(memfd).st_ino]
    assert users == [2] * 5, "each way to the file is there once, for both spaces"


def test_carrying_changes_nothing_and_keeps_no_descriptor(space: Spaces, memfd: int) -> None:
    old = space()
    old.map(0, PAGE, BOTH, memfd, 3 * PAGE)
    old.map(PAGE, PAGE, _core.PROT_READ)
    before = len(os.listdir("/proc/self/fd"))
    areas, files = old.carry()
    assert old.carry() == (areas, files)
    assert len(os.listdir("/proc/self/fd")) == before
    ((source, fd, prot, way, trust),) = files
    assert os.path.sameopenfile(fd, memfd)
    assert (prot, way, trust) == (BOTH, _core.ACCESS_MAPPED, _core.TRUSTED)
    assert list(RECORD.iter_unpack(areas)) == [(0, PAGE, 3 * PAGE, BOTH, 1, source), (PAGE, PAGE, 0, 1, 0, 0)]


@pytest.mark.parametrize("trust", [_core.TRUSTED, _core.UNPROVEN, _core.REFUSED])
def test_trust_in_a_file_is_carried_and_not_that_in_new_ones(space: Spaces, memfd: int, trust: int) -> None:
    old = space()
    old.new_files = trust
    old.map(0, PAGE, BOTH, memfd)
    new = carried(space, old)
    assert [file[1:] for file in new.files()] == [(1, trust)]
    assert new.new_files == _core.TRUSTED
    assert (new.read(0, 8) is None) == (trust != _core.TRUSTED)


def test_a_dead_file_stays_dead_though_it_is_whole_again(space: Spaces, memfd: int) -> None:
    old, alive = space(), os.memfd_create("alive")
    os.ftruncate(alive, PAGE)
    for page in range(3):
        old.map(page * PAGE, PAGE, BOTH, memfd, page * PAGE)
    old.map(3 * PAGE, PAGE, BOTH, alive)
    os.ftruncate(memfd, 0)
    assert refused(lambda: old.read(PAGE, 8)) == errno.EFAULT
    os.ftruncate(memfd, PAGES * PAGE)
    areas, files = old.carry()
    new = space()
    new.adopt(areas, files)
    os.close(alive)
    assert len(files) == 1
    for ioas in (new, carried(space, new)):
        assert ioas.count == 4
        assert all(dead(ioas, page) for page in range(3))
        assert ioas.read(3 * PAGE, 4) == bytes(4)
    assert new.unmap(0, 2 * PAGE) == 2
    new.map(0, PAGE, BOTH, memfd)
    assert new.read(0, 4) == bytes(4)
    assert dead(new, 2)


@pytest.mark.parametrize("way", [_core.ACCESS_MAPPED, _core.ACCESS_FILE])
def test_a_file_that_was_cut_on_the_way_is_dead_and_the_others_are_not(space: Spaces, memfd: int, way: int) -> None:
    old, cut = space(), os.memfd_create("cut")
    os.ftruncate(cut, 4 * PAGE)
    old.map(0, PAGE, BOTH, cut, 0, way)
    old.map(PAGE, PAGE, BOTH, cut, 3 * PAGE, way)
    old.map(2 * PAGE, PAGE, BOTH, memfd, 0, way)
    os.ftruncate(cut, 2 * PAGE)
    new = carried(space, old)
    os.close(cut)
    assert dead(new, 0)
    assert dead(new, 1)
    assert new.write(2 * PAGE, b"fine")


def test_a_file_that_was_cut_beyond_every_area_is_not_dead(space: Spaces, memfd: int) -> None:
    old = space()
    old.map(0, PAGE, BOTH, memfd, 5 * PAGE)
    os.ftruncate(memfd, 6 * PAGE)
    assert carried(space, old).write(PAGE - 4, b"fine")


def test_two_sources_of_a_file_that_has_grown_are_one_with_the_lesser_trust(space: Spaces, memfd: int) -> None:
    old = space()
    old.map(0, PAGE, BOTH, memfd)
    os.ftruncate(memfd, 2 * PAGES * PAGE)
    old.new_files = _core.UNPROVEN
    old.map(PAGE, PAGE, BOTH, memfd, PAGES * PAGE)
    new = carried(space, old)
    assert [file[1:] for file in old.files()] == [(1, _core.TRUSTED), (1, _core.UNPROVEN)]
    assert [file[1:] for file in new.files()] == [(2, _core.UNPROVEN)]


def test_files_without_a_size_are_taken_by_the_pieces_they_were(space: Spaces) -> None:
    """A device: each map of it is a source of its own, also where a share uses it again."""
    zero = os.open("/dev/zero", os.O_RDWR)
    old = space()
    for page in range(3):
        old.map(16 * page * PAGE, (page + 1) * PAGE, BOTH, zero, 8 * page * PAGE)
    old.share(16 * PAGE, 2 * PAGE, old, 100 * PAGE, BOTH)
    new = carried(space, old)
    os.close(zero)
    assert without_ids(new) == without_ids(old)
    sizes = {source["id"]: source["bytes"] for source in _core.sources()}
    assert sorted((sizes[number], areas) for number, areas, _ in new.files()) == [
        (PAGE, 1), (2 * PAGE, 2), (3 * PAGE, 1),
    ]  # fmt: skip
    assert new.write(0, b"x" * PAGE)


class TestRefused:
    """What does not fit leaves the space empty, and every descriptor where it was."""

    @staticmethod
    def record(
        iova: int = 0, size: int = PAGE, offset: int = 0, prot: int = BOTH, way: int = 1, source: int = 7
    ) -> bytes:
        return RECORD.pack(iova, size, offset, prot, way, source)

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"size": 0}, errno.EINVAL),
            ({"size": 2**64 - PAGE}, errno.EINVAL),
            ({"iova": PAGE - 1}, errno.EINVAL),  # overlaps the first
            ({"iova": 0}, errno.EINVAL),
            ({"prot": 0}, errno.EINVAL),
            ({"prot": 7}, errno.EINVAL),
            ({"way": 2}, errno.EINVAL),
            ({"way": 3}, errno.EINVAL),
            ({"source": 8}, errno.EINVAL),
            ({"source": 0}, errno.EINVAL),
            ({"offset": 2**64 - 1}, errno.EINVAL),
            ({"source": 9}, errno.EINVAL),  # not to be written
            ({"source": 9, "prot": 1, "size": 2 * PAGE}, errno.ENOSPC),
            ({"iova": 9 * PAGE}, errno.EINVAL),  # reserved
        ],
    )
    def test_areas_that_cannot_be(self, space: Spaces, memfd: int, change: dict[str, int], code: int) -> None:
        ioas, files = space(max_bytes=2 * PAGE), [(9, memfd, 1, 1, 0), (7, memfd, BOTH, 1, 0)]
        ioas.reserve([(9 * PAGE, 10 * PAGE)])
        bad: Any = {"iova": 2 * PAGE, **change}
        assert refused(lambda: ioas.adopt(self.record() + self.record(**bad), files)) == code
        assert (ioas.count, ioas.mapped, ioas.files()) == (0, 0, [])
        ioas.adopt(self.record() + self.record(iova=2 * PAGE, prot=1, source=9), files)
        assert (ioas.count, ioas.mapped) == (2, 2 * PAGE)

    @pytest.mark.parametrize(
        "file", [(7, BOTH, 0, 0), (7, BOTH, 3, 0), (7, BOTH, 1, 3), (0, BOTH, 1, 0), (8, BOTH, 1, 0), (8, 1, 2, 0)]
    )
    def test_files_that_cannot_be(self, space: Spaces, memfd: int, file: tuple[int, int, int, int]) -> None:
        ioas, (source, prot, way, trust) = space(), file
        twice = [(8, memfd, BOTH, 1, 0)] * (source == 8)
        files = [(source, memfd, prot, way, trust), *twice]
        assert refused(lambda: ioas.adopt(self.record(), files)) == errno.EINVAL
        assert ioas.count == 0

    def test_too_many_areas_are_enospc(self, space: Spaces, memfd: int) -> None:
        old = space()
        for page in range(200):
            old.map(2 * page * PAGE, PAGE, BOTH, memfd)
        new = space(max_areas=199)
        assert refused(lambda: new.adopt(*old.carry())) == errno.ENOSPC
        assert (new.count, new.files()) == (0, [])

    def test_a_descriptor_that_is_none_or_does_not_permit_it(self, space: Spaces, memfd: int) -> None:
        ioas, reader = space(), os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY)
        assert refused(lambda: ioas.adopt(self.record(), [(7, -1, BOTH, 1, 0)])) == errno.EBADF
        assert refused(lambda: ioas.adopt(self.record(), [(7, reader, BOTH, 1, 0)])) == errno.EPERM
        os.close(reader)
        assert ioas.files() == []

    def test_half_an_area_and_what_is_no_file(self, space: Spaces, memfd: int) -> None:
        ioas = space()
        with pytest.raises(ValueError, match="40 bytes"):
            ioas.adopt(self.record()[:-1], [])
        with pytest.raises(TypeError, match="a file is"):
            ioas.adopt(self.record(), [memfd])  # type: ignore[list-item]
        ioas.adopt(b"", [(7, memfd, BOTH, 1, 0)])
        assert (ioas.count, ioas.files()) == (0, [])
        ioas.adopt(memoryview(b"x" + self.record())[1:], [(7, memfd, BOTH, 1, 0)])
        assert ioas.count == 1

    def test_a_space_with_areas_adopts_nothing(self, space: Spaces, memfd: int) -> None:
        ioas = space()
        ioas.map(PAGE, PAGE, BOTH, memfd)
        with pytest.raises(LocalError, match="must be empty"):
            ioas.adopt(b"", [])


class TestLog:
    def test_dirty_pages_are_reported_once_by_the_one_that_goes_on(self, space: Spaces, memfd: int) -> None:
        old = space()
        old.map(0, PAGES * PAGE, BOTH, memfd)
        assert old.carry_log() is None
        old.log([(0, 20 * PAGE + 5), (20 * PAGE + 6, 30 * PAGE - 1)])
        written = [0, 1, 2, 7, 19, 20, 29, 31]
        for page in written:
            old.write(page * PAGE + 5, b"x")
        log = old.carry_log()
        assert log == (
            [(0, 20 * PAGE + 5), (20 * PAGE + 6, 30 * PAGE - 1)],
            [(0, 3 * PAGE - 1), (7 * PAGE, 8 * PAGE - 1), (19 * PAGE, 21 * PAGE - 1), (29 * PAGE, 30 * PAGE - 1)],
            0,
        )
        new = carried(space, old)
        new.adopt_log(*log)
        assert set_bits(new.report(0, PAGES, 12)) == set_bits(old.report(0, PAGES, 12)) == written[:-1]
        assert set_bits(new.report(0, PAGES, 12)) == []
        new.write(3 * PAGE, b"x")
        assert set_bits(new.report(0, PAGES, 12)) == [3]

    def test_what_was_unmapped_unreported_is_still_counted(self, space: Spaces, memfd: int) -> None:
        old = space()
        old.map(0, 4 * PAGE, BOTH, memfd)
        old.log([])
        old.write(PAGE, bytes(2 * PAGE))
        old.unmap(0, 4 * PAGE)
        log = old.carry_log()
        assert log == ([ALL], [], 2)
        new = space()
        new.adopt_log(*log)
        assert (new.logging, new.unreported) == (True, 2)

    def test_what_was_written_through_a_view_is_dirty_once_more(self, space: Spaces, memfd: int) -> None:
        old = space()
        old.map(0, PAGES * PAGE, BOTH, memfd)
        old.log([])
        pin = _core.Pin(old, 3 * PAGE, 2 * PAGE, BOTH)
        assert old.carry_log() == ([ALL], [(3 * PAGE, 5 * PAGE - 1)], 0)
        pin.revoke()

    def test_everything_stays_everything(self, space: Spaces) -> None:
        new, whole = space(), ([(0, 2**63), (2**64 - 2, 2**64 - 1)], [ALL], 0)
        new.adopt_log(*whole)
        assert set_bits(new.report(0, 8, 61)) == [0, 1, 2, 3, 4, 7]
        assert set_bits(new.report(0, 8, 61)) == [0, 1, 2, 3, 4, 7]
        assert new.carry_log() == whole

    def test_the_last_page_of_all(self, space: Spaces, memfd: int) -> None:
        old = space()
        old.map(2**64 - PAGE, PAGE, BOTH, memfd)
        old.log([])
        old.write(2**64 - 1, b"x")
        log = old.carry_log()
        assert log == ([ALL], [(2**64 - PAGE, 2**64 - 1)], 0)
        new = space()
        new.adopt_log(*log)
        assert set_bits(new.report(2**64 - PAGE, 1, 12)) == [0]

    def test_more_runs_than_may_be_are_joined_where_they_are_nearest(self, space: Spaces) -> None:
        """Never too little, and far from everything."""
        fd = os.memfd_create("much")
        os.ftruncate(fd, 1 << 29)
        old, new, dice = space(), space(), random.Random(11)
        old.map(0, 1 << 29, BOTH, fd)
        os.close(fd)
        old.log([])
        written = set(dice.sample(range(1 << 16), 12_000)) | set(dice.sample(range(1 << 16, 1 << 17), 50))
        for page in written:
            old.atomic(_core.OR, page * PAGE, 8)  # marks the page
        log = old.carry_log()
        assert log is not None
        assert 1000 < len(log[1]) <= 8192
        assert all(before[1] + 1 < after[0] for before, after in zip(log[1], log[1][1:], strict=False))
        new.adopt_log(*log)
        said = set(set_bits(new.report(0, 1 << 17, 12)))
        assert written <= said
        assert len(said) < 1 << 16
        assert len([page for page in said if page >= 1 << 16]) < 200
        assert set(set_bits(old.report(0, 1 << 17, 12))) == written

    @pytest.mark.parametrize(
        ("spans", "runs", "code"),
        [
            ([(5, 4)], [], errno.EINVAL),
            ([(0, 9), (9, 12)], [], errno.EINVAL),
            ([], [(PAGE, PAGE - 1)], errno.EINVAL),
        ],
    )
    def test_what_cannot_be_logged_is_refused(
        self, space: Spaces, spans: list[tuple[int, int]], runs: list[tuple[int, int]], code: int
    ) -> None:
        ioas = space()
        assert refused(lambda: ioas.adopt_log(spans, runs, 3)) == code
        assert (ioas.logging, ioas.unreported) == (False, 0)
        ioas.adopt_log([], [], 0)
        assert refused(lambda: ioas.adopt_log([], [(0, PAGE)], 1)) == errno.EALREADY
        assert set_bits(ioas.report(0, 1, 12)) == []
        with pytest.raises(TypeError, match="a span is"):
            ioas.adopt_log([5], [], 0)  # type: ignore[list-item]
