"""Memory that becomes another file's where it lies: whoever has a view of it notices only the bytes."""

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from vfuserver import _core

PAGE: Final = mmap.PAGESIZE
SIZE: Final = 4 * PAGE


@pytest.fixture
def file() -> Iterator[int]:
    """As long as the memory; each page begins with its number."""
    fd = os.memfd_create("remap-test", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SIZE)
    for page in range(4):
        os.pwrite(fd, b"file%d" % page, page * PAGE)
    yield fd
    os.close(fd)


@pytest.fixture(params=["anonymous", "memfd"])
def memory(request: pytest.FixtureRequest) -> Iterator[mmap.mmap]:
    """What a device has before it takes over: memory of no file, or of one of its own."""
    fd = -1 if request.param == "anonymous" else os.memfd_create("power-on")
    if fd >= 0:
        os.ftruncate(fd, SIZE)
    with mmap.mmap(fd, SIZE) as memory:
        if fd >= 0:
            os.close(fd)
        memory[:5] = b"mine0"
        yield memory


def test_views_and_tables_show_the_file_from_then_on(memory: mmap.mmap, file: int) -> None:
    view = memoryview(memory)[PAGE:]
    layout = _core.Layout(SIZE, [(0, 1, SIZE, b"", 0xFF, 0, 0xFF, 0, 0, _core.MEMORY)])
    table = _core.Table(layout, memory={0: memory})
    assert table.read(0, 5) == b"mine0"
    _core.remap(memory, file)
    assert (table.read(0, 5), bytes(view[:5]), memory[-PAGE : 5 - PAGE]) == (b"file0", b"file1", b"file3")
    table.write(SIZE - 8, b"written!")
    view[100] = 0x55
    assert os.pread(file, 8, SIZE - 8) == b"written!"
    os.pwrite(file, b"outside", 2 * PAGE)
    assert (os.pread(file, 1, PAGE + 100), table.read(2 * PAGE, 7)) == (b"\x55", b"outside")
    view.release()
    del table


def test_a_second_file_takes_the_place_of_the_first(memory: mmap.mmap, file: int) -> None:
    _core.remap(memory, file)
    other = os.memfd_create("longer")
    os.ftruncate(other, SIZE + 1)
    _core.remap(memory, other)
    os.close(other)
    memory[:4] = b"here"
    assert os.pread(file, 5, 0) == b"file0"


def test_a_file_that_may_not_be_cut_is_as_good(memory: mmap.mmap, file: int) -> None:
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    _core.remap(memory, file)
    assert memory[:5] == b"file0"


def cut(file: int) -> int:
    os.ftruncate(file, SIZE - 1)
    return os.dup(file)


def sealed(file: int) -> int:
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, 0x10)  # F_SEAL_FUTURE_WRITE
    return os.dup(file)


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (cut, ValueError),
        (sealed, errno.EPERM),
        (lambda file: os.open(f"/proc/self/fd/{file}", os.O_RDONLY), errno.EACCES),
        (lambda file: os.open(f"/proc/self/fd/{file}", os.O_WRONLY), errno.EACCES),
        (lambda file: os.eventfd(0), ValueError),
    ],
    ids=["cut", "sealed", "read-only", "write-only", "no file"],
)
def test_a_file_that_does_not_do_changes_nothing(
    memory: mmap.mmap, file: int, make: Callable[[int], int], wrong: type[ValueError] | int
) -> None:
    fd = make(file)
    with pytest.raises((ValueError, OSError)) as caught:
        _core.remap(memory, fd)
    os.close(fd)
    assert wrong in (type(caught.value), getattr(caught.value, "errno", None))
    assert memory[:5] == b"mine0"
    memory[:5] = b"still"
    assert memory[:5] == b"still"


def test_no_descriptor_is_ebadf(memory: mmap.mmap) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        _core.remap(memory, -1)


def test_memory_that_is_not_whole_pages_is_refused(memory: mmap.mmap, file: int) -> None:
    with memoryview(memory) as view:
        for part in (view[1:], view[:-1], view[8 : PAGE + 8], view[:0]):
            with part, pytest.raises(ValueError, match="whole pages"):
                _core.remap(part, file)
    assert memory[:5] == b"mine0"


def test_memory_that_is_read_only_is_refused(file: int) -> None:
    with mmap.mmap(-1, PAGE, prot=mmap.PROT_READ) as memory, pytest.raises(BufferError):
        _core.remap(memory, file)


def test_a_view_of_client_memory_stays_one(file: int) -> None:
    """Its pages are the client's; revoking it, or a fault in it, would take the other file's away."""
    both, fd = _core.PROT_READ | _core.PROT_WRITE, os.memfd_create("client")
    os.ftruncate(fd, SIZE)
    ioas = _core.Ioas()
    ioas.map(0, SIZE, both, fd)
    os.close(fd)
    pin = _core.Pin(ioas, 0, SIZE, both)
    with memoryview(pin) as view, pytest.raises(ValueError, match="a client's file"):
        _core.remap(view[PAGE:], file)
    ioas.write(PAGE, b"there")
    assert bytes(pin)[PAGE : PAGE + 5] == b"there"
    del pin
    ioas.clear()
