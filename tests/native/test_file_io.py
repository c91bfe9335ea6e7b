"""Areas that are reached by file I/O instead of a mapping: the access modes of DMA_MAP (S1.5, S1.12, S4.7)."""

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vfuserver import _core
from vfuserver.errors import CommandError, DmaError

PAGE = 4096
BOTH = _core.PROT_READ | _core.PROT_WRITE
FILE, MAPPED = _core.ACCESS_FILE, _core.ACCESS_MAPPED


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("file-io-test")
    os.ftruncate(fd, 16 * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture
def ioas(memfd: int) -> Iterator[_core.Ioas]:
    """Four pages at 0x10000, from page 2 of the file on."""
    ioas = _core.Ioas()
    ioas.map(0x10000, 4 * PAGE, BOTH, memfd, 2 * PAGE, FILE)
    yield ioas
    ioas.clear()


def refused(call: Callable[[], object]) -> int:
    with pytest.raises((CommandError, DmaError)) as caught:
        call()
    return caught.value.errno


def reopened(fd: int, flags: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", flags)


def test_bytes_go_to_their_place_in_the_file_and_nothing_is_mapped(ioas: _core.Ioas, memfd: int) -> None:
    ioas.write(0x10000 + PAGE - 2, b"across")
    assert os.pread(memfd, 6, 3 * PAGE - 2) == b"across"
    assert ioas.read(0x10000 + PAGE - 2, 6) == b"across"
    into = bytearray(3)
    ioas.read_into(0x10000 + PAGE, into)
    assert into == b"ros"
    assert "file-io-test" not in Path("/proc/self/maps").read_text()
    assert [area[:4] for area in ioas.areas()] == [(0x10000, 4 * PAGE, BOTH, FILE)]
    assert [piece[:3] for piece in ioas.plan(0x10000, 8, BOTH)] == [(0x10000, 8, FILE)]


@pytest.mark.parametrize("target", [MAPPED, FILE])
@pytest.mark.parametrize("source", [MAPPED, FILE])
def test_copy_goes_between_every_two_kinds(memfd: int, source: int, target: int) -> None:
    ioas, data = _core.Ioas(), os.urandom(5 * PAGE)  # more than one round of the copy between files
    ioas.map(0, 8 * PAGE, BOTH, memfd, 0, source)
    ioas.map(0x100000, 8 * PAGE, BOTH, memfd, 8 * PAGE, target)
    os.pwrite(memfd, data, 7)
    ioas.copy(7, 0x100003, len(data))
    assert os.pread(memfd, len(data), 8 * PAGE + 3) == data


def test_one_access_may_cross_from_a_mapping_to_a_file(memfd: int) -> None:
    ioas = _core.Ioas()
    ioas.map(0, PAGE, BOTH, memfd, 0, MAPPED)
    ioas.map(PAGE, PAGE, BOTH, memfd, 8 * PAGE, FILE)
    ioas.write(PAGE - 3, b"abcdef")
    assert (os.pread(memfd, 3, PAGE - 3), os.pread(memfd, 3, 8 * PAGE)) == (b"abc", b"def")
    assert ioas.read(PAGE - 3, 6) == b"abcdef"


def test_a_write_never_makes_a_file_grow_that_was_cut(ioas: _core.Ioas, memfd: int) -> None:
    """S1.12: EFAULT, and the file stays as short as the client made it."""
    os.ftruncate(memfd, 3 * PAGE)
    for place in (0x10000 + PAGE, 0x10000 + PAGE - 2):
        assert refused(lambda at=place: ioas.write(at, b"lost")) == errno.EFAULT  # type: ignore[misc]
        assert refused(lambda at=place: ioas.read(at, 4)) == errno.EFAULT  # type: ignore[misc]
    assert refused(lambda: ioas.copy(0x10000, 0x10000 + 2 * PAGE, 8)) == errno.EFAULT
    assert os.fstat(memfd).st_size == 3 * PAGE
    ioas.write(0x10000, b"kept")
    assert ioas.read(0x10000, 4) == b"kept"


def test_a_file_that_is_too_short_is_einval(memfd: int) -> None:
    """S1.12, as for a mapping."""
    assert refused(lambda: _core.Ioas().map(0, PAGE, BOTH, memfd, 16 * PAGE, FILE)) == errno.EINVAL
    assert refused(lambda: _core.Ioas().map(0, PAGE, BOTH, memfd, 2**63, FILE)) == errno.EINVAL


@pytest.mark.parametrize("way", [MAPPED, FILE])
@pytest.mark.parametrize("prot", [_core.PROT_WRITE, BOTH])
def test_write_permission_for_a_read_only_descriptor_is_eperm(memfd: int, way: int, prot: int) -> None:
    """S1.5: read-only stays read-only, although somebody else has the same file writable."""
    other, fd = _core.Ioas(), reopened(memfd, os.O_RDONLY)
    other.map(0, PAGE, prot, memfd, 0, way)
    assert refused(lambda: _core.Ioas().map(0, PAGE, prot, fd, 0, way)) == errno.EPERM
    os.close(fd)


@pytest.mark.parametrize("way", [MAPPED, FILE])
@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_PATH])
def test_read_permission_for_a_descriptor_that_cannot_read_is_eperm(memfd: int, way: int, flags: int) -> None:
    other, fd = _core.Ioas(), reopened(memfd, flags)
    other.map(0, PAGE, _core.PROT_READ, memfd, 0, way)
    assert refused(lambda: _core.Ioas().map(0, PAGE, _core.PROT_READ, fd, 0, way)) == errno.EPERM
    os.close(fd)


def test_a_write_only_file_cannot_be_mapped_but_written(memfd: int) -> None:
    ioas, fd = _core.Ioas(), reopened(memfd, os.O_WRONLY)
    ioas.map(0, PAGE, _core.PROT_WRITE, fd, 0, MAPPED | FILE)
    ioas.write(0, b"written")
    assert [area[:4] for area in ioas.areas()] == [(0, PAGE, _core.PROT_WRITE, FILE)]
    assert os.pread(memfd, 7, 0) == b"written"
    assert refused(lambda: ioas.read(0, 1)) == errno.EPERM
    os.close(fd)


def test_a_file_that_appends_is_refused_for_writing_then_and_later(ioas: _core.Ioas, memfd: int) -> None:
    """Linux appends whatever place a pwrite names."""
    fd = reopened(memfd, os.O_RDWR | os.O_APPEND)
    assert refused(lambda: _core.Ioas().map(0, PAGE, BOTH, fd, 0, FILE)) == errno.EINVAL
    _core.Ioas().map(0, PAGE, _core.PROT_READ, fd, 0, FILE)
    os.close(fd)
    fcntl.fcntl(memfd, fcntl.F_SETFL, os.O_APPEND)  # on the open file that the area's descriptor shares
    assert refused(lambda: ioas.write(0x10000, b"to the end?")) == errno.EFAULT
    assert os.fstat(memfd).st_size == 16 * PAGE


def odd_descriptors() -> dict[str, int]:
    ends = os.pipe()
    os.close(ends[0])
    return {
        "pipe": ends[1],
        "directory": os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY),
        "socket": socket.socket(socket.AF_UNIX).detach(),
        "eventfd": os.eventfd(0),
    }


def test_what_has_no_places_is_einval() -> None:
    """A pipe, a directory, a socket, an eventfd."""
    for name, fd in odd_descriptors().items():
        prot = _core.PROT_WRITE if name == "pipe" else _core.PROT_READ
        assert refused(lambda fd=fd, prot=prot: _core.Ioas().map(0, PAGE, prot, fd, 0, FILE)) == errno.EINVAL  # type: ignore[misc]
        os.close(fd)


def test_another_process_memory_is_reached_where_it_cannot_be_mapped() -> None:
    """What the mode is for: /proc/PID/mem, which calls itself an empty regular file."""
    memory = mmap.mmap(-1, 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fd, ioas = os.open("/proc/self/mem", os.O_RDWR), _core.Ioas()
    assert refused(lambda: ioas.map(0, 2 * PAGE, BOTH, fd, address, MAPPED)) == errno.ENODEV
    ioas.map(0, 2 * PAGE, BOTH, fd, address, MAPPED | FILE)
    ioas.map(0x10000, PAGE, BOTH, fd, 0, FILE)  # nobody has a page at address 0
    os.close(fd)
    ioas.write(PAGE - 2, b"across")
    assert (memory[PAGE - 2 : PAGE + 4], ioas.read(PAGE - 2, 6)) == (b"across", b"across")
    assert refused(lambda: ioas.read(0x10000, 4)) == errno.EIO
    assert refused(lambda: ioas.write(0x10000, b"x")) == errno.EIO


def test_a_file_is_kept_open_once_until_its_last_area_goes(memfd: int) -> None:
    """S4.7: one descriptor, however many areas and spaces."""
    before, spaces = len(os.listdir("/proc/self/fd")), [_core.Ioas() for _ in range(3)]
    for ioas in spaces:
        for page in range(8):
            ioas.map(page * PAGE, PAGE, BOTH, memfd, page * PAGE, FILE)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    for ioas in spaces:
        ioas.clear()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("way", [MAPPED, FILE])
def test_clients_files_take_a_quarter_of_the_descriptors_at_most(way: int) -> None:
    """The rest is the server's and the other clients': ENOSPC."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, limits[1]))
    ioas, files = _core.Ioas(), [os.memfd_create("one of many") for _ in range(60)]
    for fd in files:
        os.ftruncate(fd, PAGE)
    try:
        for place, fd in enumerate(files[:50]):
            ioas.map(place * PAGE, PAGE, BOTH, fd, 0, way)
        assert refused(lambda: ioas.map(1 << 20, PAGE, BOTH, files[50], 0, way)) == errno.ENOSPC
        ioas.unmap(0, PAGE)
        ioas.map(0, PAGE, BOTH, files[50], 0, way)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in files:
            os.close(fd)
