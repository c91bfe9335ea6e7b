"""Areas over memory that somebody else has mapped (the libvfio-user engine's): copies, views, cut files, their end."""

import ctypes
import errno
import mmap
import os
from collections.abc import Callable, Iterator

import pytest

from vfuserver._core import PROT_READ, PROT_WRITE, Ioas, Pin, sources
from vfuserver.errors import CommandError, DmaError, LocalError

PAGE, SIZE = 4096, 4 * 4096
IOVA = 0x10_0000
BOTH = PROT_READ | PROT_WRITE


class Foreign:
    """A file, and a mapping of it that is not the core's."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("foreign", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, SIZE)
        self.memory = mmap.mmap(self.fd, SIZE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    one = Foreign()
    yield one
    os.close(one.fd)
    one.memory.close()


@pytest.fixture
def ioas(foreign: Foreign) -> Iterator[Ioas]:
    """Empty again before the mapping goes, as the rule is."""
    space = Ioas()
    yield space
    space.clear()


def refused(call: Callable[[], object]) -> int:
    with pytest.raises((CommandError, DmaError)) as caught:
        call()
    return int(caught.value.errno)


def test_bytes_reach_the_other_mapping(foreign: Foreign, ioas: Ioas) -> None:
    ioas.map_foreign(IOVA, SIZE, BOTH, foreign.address)
    assert ioas.write(IOVA + 10, b"hello")
    assert foreign.memory[10:15] == b"hello"
    assert ioas.read(IOVA + 9, 7) == b"\0hello\0"
    assert ioas.plan(IOVA, 4, BOTH)[0][2] == 1


def test_memory_inside_a_page_is_served_from_there(foreign: Foreign, ioas: Ioas) -> None:
    ioas.map_foreign(IOVA, PAGE, BOTH, foreign.address + 256)
    foreign.memory[256:260] = b"abcd"
    assert ioas.read(IOVA, 4) == b"abcd"


def test_removed_area_leaves_the_mapping_and_no_source(foreign: Foreign, ioas: Ioas) -> None:
    ioas.map_foreign(IOVA, SIZE, BOTH, foreign.address)
    assert ioas.unmap(IOVA, SIZE) == 1
    foreign.memory[0] = 7
    assert not sources()
    assert refused(lambda: ioas.read(IOVA, 1)) == errno.EFAULT


def test_area_twice_is_eexist_and_permissions_are_kept(foreign: Foreign, ioas: Ioas) -> None:
    ioas.map_foreign(IOVA, SIZE, PROT_READ, foreign.address)
    assert refused(lambda: ioas.map_foreign(IOVA, PAGE, BOTH, foreign.address)) == errno.EEXIST
    assert refused(lambda: ioas.write(IOVA, b"x")) == errno.EPERM
    assert refused(lambda: ioas.map_foreign(0, PAGE, 0, foreign.address)) == errno.EINVAL


def test_view_has_pages_of_its_own_until_it_is_revoked(foreign: Foreign, ioas: Ioas) -> None:
    ioas.map_foreign(IOVA, SIZE, BOTH, foreign.address)
    pin = Pin(ioas, IOVA + PAGE, 2 * PAGE, BOTH)
    view = memoryview(pin)
    view[0:4] = b"view"
    assert foreign.memory[PAGE : PAGE + 4] == b"view"
    ioas.unmap(IOVA, SIZE)
    assert ioas.revoke(IOVA, IOVA + SIZE - 1) == 1
    view[0:4] = b"none"
    assert foreign.memory[PAGE : PAGE + 4] == b"view"
    view.release()


def test_view_for_reading_cannot_be_written(foreign: Foreign, ioas: Ioas) -> None:
    ioas.map_foreign(IOVA, SIZE, BOTH, foreign.address)
    view = memoryview(Pin(ioas, IOVA, PAGE, PROT_READ))
    foreign.memory[5] = 5
    assert view.readonly
    assert view[5] == 5
    view.release()


def test_file_that_was_cut_is_efault_for_copies_and_zeros_in_views(foreign: Foreign, ioas: Ioas) -> None:
    """S1.12."""
    ioas.map_foreign(IOVA, SIZE, BOTH, foreign.address)
    pin = Pin(ioas, IOVA, SIZE, BOTH)
    view = memoryview(pin)
    os.ftruncate(foreign.fd, PAGE)
    assert refused(lambda: ioas.read(IOVA, SIZE)) == errno.EFAULT
    assert refused(lambda: ioas.write(IOVA, b"dead")) == errno.EFAULT
    assert view[2 * PAGE] == 0
    assert not pin.valid
    view.release()


def test_space_over_a_foreign_mapping_cannot_be_carried_and_stays_as_it_is(foreign: Foreign, ioas: Ioas) -> None:
    """There is no descriptor that another process could map."""
    ioas.map(IOVA + SIZE, PAGE, BOTH)
    ioas.map_foreign(IOVA, SIZE, BOTH, foreign.address)
    with pytest.raises(LocalError, match="somebody else has mapped"):
        ioas.carry()
    assert ioas.write(IOVA, b"here")
    ioas.unmap(IOVA, SIZE)
    assert ioas.carry()[1] == []


def test_foreign_mapping_whose_file_was_cut_is_carried_as_dead(foreign: Foreign, ioas: Ioas) -> None:
    """S1.12."""
    ioas.map_foreign(IOVA, SIZE, BOTH, foreign.address)
    os.ftruncate(foreign.fd, 0)
    assert refused(lambda: ioas.read(IOVA, 1)) == errno.EFAULT
    other = Ioas()
    other.adopt(*ioas.carry())
    assert refused(lambda: other.read(IOVA, 1)) == errno.EFAULT
    other.clear()
