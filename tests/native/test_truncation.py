"""A client that cuts its file while the device is at it: EFAULT, and nothing is lost but that file (S1.12, S4.12)."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Final

import pytest

from tests.leaks import nothing_left_behind
from vfuserver import _core
from vfuserver.errors import DmaError

PAGE: Final = 4096
BOTH: Final = _core.PROT_READ | _core.PROT_WRITE
SIZE: Final = 64 * PAGE
"""So large that the core works on it without the GIL, and is cut in the middle."""
ROUNDS: Final = 150


@contextmanager
def cut_meanwhile(fd: int) -> Iterator[None]:
    """Another thread cuts the file at a page in the middle while the body runs."""
    begun = Event()

    def cut() -> None:
        begun.wait()
        os.ftruncate(fd, SIZE // 2)

    thread = Thread(target=cut)
    thread.start()
    try:
        begun.set()
        yield
    finally:
        thread.join()


def until_refused(call: Callable[[], object]) -> int:
    """Does it again until it fails; the errno."""
    while True:
        try:
            call()
        except DmaError as error:
            return error.errno


def reads(ioas: _core.Ioas, disk: int) -> None:
    ioas.read(0, SIZE)


def writes(ioas: _core.Ioas, disk: int) -> None:
    ioas.write(0, bytes(SIZE))


def copies(ioas: _core.Ioas, disk: int) -> None:
    ioas.copy(SIZE // 2, 0, SIZE // 2)


def adds(ioas: _core.Ioas, disk: int) -> None:
    ioas.atomic(_core.ADD, SIZE - 8, 8, 1)


def fills_from_a_file(ioas: _core.Ioas, disk: int) -> None:
    if ioas.preadv(disk, [(0, SIZE // 2), (SIZE // 2, SIZE // 2)], 0) < SIZE:
        raise DmaError(errno.EFAULT, "it stopped at the cut")


def writes_to_a_file(ioas: _core.Ioas, disk: int) -> None:
    if ioas.pwritev(disk, [(0, SIZE)], 0) < SIZE:
        raise DmaError(errno.EFAULT, "it stopped at the cut")


@pytest.fixture
def disk() -> Iterator[int]:
    """A file of the device's own."""
    fd = os.memfd_create("disk")
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


@contextmanager
def client_file() -> Iterator[int]:
    fd = os.memfd_create("cut-file")
    os.ftruncate(fd, SIZE)
    try:
        yield fd
    finally:
        os.close(fd)


def mappings() -> int:
    return sum("cut-file" in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.parametrize("access", [reads, writes, copies, adds, fills_from_a_file, writes_to_a_file])
def test_file_cut_during_dma_is_efault_and_a_new_map_works(
    access: Callable[[_core.Ioas, int], None], disk: int
) -> None:
    """The dead source stays dead also if the file grows again; what is mapped anew is a new source."""
    ioas = _core.Ioas()
    with nothing_left_behind():
        for _ in range(ROUNDS):
            with client_file() as fd:
                ioas.map(0, SIZE, BOTH, fd)
                with cut_meanwhile(fd):
                    assert until_refused(lambda: access(ioas, disk)) == errno.EFAULT
                assert until_refused(lambda: ioas.read(SIZE - PAGE, 1)) == errno.EFAULT
                [dead] = [source["id"] for source in _core.sources() if source["dead"]]
                os.ftruncate(fd, SIZE)
                assert until_refused(lambda: ioas.read(0, 1)) == errno.EFAULT
                ioas.map(SIZE, SIZE, BOTH, fd)
                ioas.write(SIZE, b"alive")
                assert [source["id"] for source in _core.sources() if not source["dead"]] > [dead]
                assert ioas.unmap(0, SIZE) == 1
                assert mappings() == 1
                assert ioas.clear() == 1
    assert _core.sources() == []


@pytest.mark.parametrize("prot", [_core.PROT_READ, BOTH])
def test_file_cut_under_a_view_shows_zeros_and_says_so(prot: int) -> None:
    """A plain load cannot raise: zeros, `valid` is false, and the next access through the space is EFAULT."""
    ioas = _core.Ioas()
    with nothing_left_behind():
        for _ in range(ROUNDS):
            with client_file() as fd:
                os.pwrite(fd, b"\xff" * SIZE, 0)
                ioas.map(0, SIZE, BOTH, fd)
                pin, other = _core.Pin(ioas, 0, SIZE, prot), _core.Pin(ioas, 0, PAGE, prot)
                view = memoryview(pin)
                with cut_meanwhile(fd):
                    while not pin.faulted:
                        hashlib.sha256(view)  # every byte, without the GIL
                assert not pin.valid
                assert bytes(view) == bytes(SIZE)
                assert bytes(other) == b"\xff" * PAGE, "nobody else's view changes"
                assert other.valid
                assert os.pread(fd, SIZE, 0) == b"\xff" * (SIZE // 2)
                assert until_refused(lambda: ioas.read(0, SIZE)) == errno.EFAULT
                del view, pin, other
                assert (ioas.pins, ioas.clear()) == (0, 1)


def test_store_into_a_view_of_a_cut_file_goes_nowhere() -> None:
    ioas = _core.Ioas()
    with client_file() as fd:
        ioas.map(0, SIZE, BOTH, fd)
        pin = _core.Pin(ioas, 0, SIZE, BOTH)
        os.ftruncate(fd, PAGE)
        memoryview(pin)[SIZE - 1] = 1
        memoryview(pin)[0] = 1
        assert (pin.faulted, os.pread(fd, SIZE, 0)) == (True, bytes(PAGE))
        ioas.clear()
