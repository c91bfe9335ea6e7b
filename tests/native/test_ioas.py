"""The IOVA table (S1.5, S1.10, S4.4, S4.5)."""

import errno
import os
import random
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from vfuserver import _core
from vfuserver.errors import CommandError, DmaError

PAGE = 4096
BOTH = _core.PROT_READ | _core.PROT_WRITE


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("ioas-test")
    os.ftruncate(fd, 64 * PAGE)
    yield fd
    os.close(fd)


def refused(call: Callable[[], object]) -> int:
    with pytest.raises((CommandError, DmaError)) as caught:
        call()
    return caught.value.errno


def test_write_reaches_the_file_across_areas(memfd: int) -> None:
    ioas = _core.Ioas()
    ioas.map(0x10000, PAGE, BOTH, memfd, 8 * PAGE)
    ioas.map(0x10000 + PAGE, PAGE, BOTH, memfd, 2 * PAGE)
    ioas.write(0x10000 + PAGE - 4, b"leftright")
    assert (os.pread(memfd, 4, 9 * PAGE - 4), os.pread(memfd, 5, 2 * PAGE)) == (b"left", b"right")
    assert ioas.read(0x10000 + PAGE - 4, 9) == b"leftright"


def test_failed_copy_moves_no_byte(memfd: int) -> None:
    ioas = _core.Ioas()
    ioas.map(0, PAGE, BOTH, memfd)
    assert refused(lambda: ioas.write(PAGE - 2, b"abcd")) == errno.EFAULT
    assert os.pread(memfd, 2, PAGE - 2) == b"\0\0"


@pytest.mark.parametrize(
    ("iova", "size", "prot", "offset", "code"),
    [
        (0, 0, BOTH, 0, errno.EINVAL),
        (2**64 - PAGE, 2 * PAGE, BOTH, 0, errno.EINVAL),
        (0, PAGE, 0, 0, errno.EINVAL),
        (0, 65 * PAGE, BOTH, 0, errno.EINVAL),
        (0, PAGE, BOTH, 64 * PAGE, errno.EINVAL),
        (0, PAGE, BOTH, 2**63, errno.EINVAL),
        (0x100000, PAGE, BOTH, 0, errno.EEXIST),
        (0x100000 - PAGE, 3 * PAGE, BOTH, 0, errno.EEXIST),
    ],
)
def test_impossible_map_is_refused(memfd: int, iova: int, size: int, prot: int, offset: int, code: int) -> None:
    ioas = _core.Ioas()
    ioas.map(0x100000, PAGE, BOTH, memfd)
    assert refused(lambda: ioas.map(iova, size, prot, memfd, offset)) == code
    assert ioas.count == 1


def test_limit_of_areas_is_enospc_until_one_goes() -> None:
    """S1.14."""
    ioas = _core.Ioas(max_areas=2)
    ioas.map(0, PAGE, BOTH)
    ioas.map(PAGE, PAGE, BOTH)
    assert refused(lambda: ioas.map(2 * PAGE, PAGE, BOTH)) == errno.ENOSPC
    ioas.unmap(0, PAGE)
    ioas.map(2 * PAGE, PAGE, BOTH)


def test_unmap_removes_whole_areas_and_cuts_none() -> None:
    """S1.10, S4.5: a range that cuts a mapping removes nothing."""
    ioas = _core.Ioas()
    for page in range(4):
        ioas.map(page * 2 * PAGE, 2 * PAGE, BOTH)
    assert refused(lambda: ioas.unmap(0, 3 * PAGE)) == errno.ENOENT
    assert refused(lambda: ioas.unmap(100 * PAGE, PAGE)) == errno.ENOENT
    assert ioas.unmap(0, 4 * PAGE) == 2
    assert ioas.unmap(0, 2**63) == 2


def test_end_of_the_address_space_is_no_wrap() -> None:
    ioas = _core.Ioas()
    ioas.map(2**64 - PAGE, PAGE, BOTH)
    assert ioas.unmap(0xFEF00000, 0xFFFFFFFF01100000) == 1


def test_permissions_are_kept(memfd: int) -> None:
    """S1.5: a read-only range refuses a write, and its memory is unchanged."""
    ioas = _core.Ioas()
    ioas.map(0, PAGE, _core.PROT_READ, memfd)
    assert refused(lambda: ioas.write(0, b"x")) == errno.EPERM
    assert ioas.read(0, 1) == b"\0"


def test_writable_map_of_a_read_only_file_is_eperm(memfd: int) -> None:
    fd = os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY)
    assert refused(lambda: _core.Ioas().map(0, PAGE, BOTH, fd)) == errno.EPERM
    os.close(fd)


def test_bus_mastering_off_is_eperm(memfd: int) -> None:
    """S2.15."""
    gate = _core.Gate()
    ioas = _core.Ioas(gate)
    ioas.map(0, PAGE, BOTH, memfd)
    assert refused(lambda: ioas.read(0, 1)) == errno.EPERM
    gate.set(_core.Gate.MASTER)
    assert ioas.read(0, 1) == b"\0"


def test_plan_tells_mapped_pieces_from_messages(memfd: int) -> None:
    ioas = _core.Ioas()
    ioas.map(0, PAGE, BOTH, memfd)
    ioas.map(PAGE, PAGE, BOTH)
    [(source, _, _)] = ioas.files()
    pieces = [(PAGE - 8, 8, _core.ACCESS_MAPPED, source, False), (PAGE, 8, _core.ACCESS_MESSAGES, 0, False)]
    assert ioas.plan(PAGE - 8, 16, _core.PROT_READ) == pieces
    assert ioas.read(PAGE, 1) is None
    assert not ioas.write(PAGE, b"x")


def test_one_mapping_of_a_file_serves_every_space(memfd: int) -> None:
    """S4.7: however many areas and spaces, the file is mapped once and one descriptor is ours."""
    before, spaces = len(os.listdir("/proc/self/fd")), [_core.Ioas() for _ in range(3)]
    for index, ioas in enumerate(spaces):
        ioas.map(0, PAGE, BOTH, memfd, index * PAGE)
        ioas.map(PAGE, PAGE, BOTH, memfd, index * PAGE)
    with open("/proc/self/maps") as maps:
        assert sum("ioas-test" in line for line in maps) == 1
    assert len(os.listdir("/proc/self/fd")) == before + 1


def test_file_that_grew_is_mapped_anew(memfd: int) -> None:
    ioas = _core.Ioas()
    ioas.map(0, PAGE, BOTH, memfd)
    os.ftruncate(memfd, 128 * PAGE)
    ioas.map(PAGE, PAGE, BOTH, memfd, 100 * PAGE)
    ioas.write(PAGE, b"far")
    assert os.pread(memfd, 3, 100 * PAGE) == b"far"


def test_random_maps_agree_with_a_naive_model(memfd: int) -> None:
    dice, ioas, model = random.Random(3), _core.Ioas(), dict[int, int]()
    for _ in range(5000):
        start, pages = dice.randrange(256), dice.randrange(1, 9)
        wanted = set(range(start, start + pages))
        if dice.random() < 0.6:
            taken = {page for first, length in model.items() for page in range(first, first + length)}
            if wanted & taken:
                assert refused(partial(ioas.map, start * PAGE, pages * PAGE, BOTH)) == errno.EEXIST
            else:
                ioas.map(start * PAGE, pages * PAGE, BOTH)
                model[start] = pages
        else:
            touched = [(f, n) for f, n in model.items() if wanted & set(range(f, f + n))]
            if touched and all(set(range(f, f + n)) <= wanted for f, n in touched):
                assert ioas.unmap(start * PAGE, pages * PAGE) == len(touched)
                for first, _ in touched:
                    del model[first]
            else:
                assert refused(partial(ioas.unmap, start * PAGE, pages * PAGE)) == errno.ENOENT
        assert [(iova // PAGE, size // PAGE) for iova, size, *_ in ioas.areas()] == sorted(model.items())


def test_file_that_was_cut_under_its_mapping_is_efault_and_dead(memfd: int) -> None:
    """S1.12: the copy ends with EFAULT, and so does every later one; the same file mapped again is a new source."""
    ioas = _core.Ioas()
    ioas.map(0, 4 * PAGE, BOTH, memfd)
    os.ftruncate(memfd, PAGE)
    assert refused(lambda: ioas.read(0, 4 * PAGE)) == errno.EFAULT
    assert refused(lambda: ioas.write(0, b"lost")) == errno.EFAULT
    assert refused(lambda: ioas.copy(0, 2 * PAGE, 64)) == errno.EFAULT
    ioas.map(4 * PAGE, PAGE, BOTH, memfd)
    ioas.write(4 * PAGE, b"kept")
    assert ioas.read(4 * PAGE, 4) == os.pread(memfd, 4, 0) == b"kept"
    assert [source["dead"] for source in _core.sources() if source["users"]].count(True) == 1
