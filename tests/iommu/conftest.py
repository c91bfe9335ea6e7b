"""Client memory of all kinds: mapped, by file I/O, and reached by messages only."""

import asyncio
import errno
import os
from collections.abc import Iterator

import pytest

from vfuserver._core import ACCESS_FILE, PROT_READ, PROT_WRITE, Ioas
from vfuserver.errors import DmaError
from vfuserver.testing.local_client import LocalMemory

PAGE = 4096
MAPPED, BY_FILE, REMOTE = 0x10000, 0x20000, 0x40000
"""Where each kind lies: 4, 4 and 8 pages; the last in areas of one page each."""
PATTERN = bytes(range(1, 252)) * 200


class Remote:
    """A client that answers messages, later, and can refuse them."""

    def __init__(self) -> None:
        self.memory = bytearray(8 * PAGE)
        self.asked: list[tuple[int, int]] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.refuses: set[int] = set()

    async def read(self, iova: int, length: int) -> bytes:
        at = await self._answer(iova, length)
        return bytes(self.memory[at : at + length])

    async def write(self, iova: int, data: memoryview) -> None:
        at = await self._answer(iova, len(data))
        self.memory[at : at + len(data)] = data

    async def _answer(self, iova: int, length: int) -> int:
        self.asked.append((iova, length))
        await self.answers.wait()
        if iova & -PAGE in self.refuses or not 0 <= iova - REMOTE <= len(self.memory) - length:
            raise DmaError(errno.EIO, f"{iova:#x} is refused")
        return iova - REMOTE


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def memory(remote: Remote) -> Iterator[LocalMemory]:
    made = LocalMemory(port=remote, who="testdev")
    made.add(MAPPED, 4 * PAGE)
    add_by_file(made.ioas, BY_FILE, 4 * PAGE)
    for at in range(REMOTE, REMOTE + 8 * PAGE, PAGE):
        made.ioas.map(at, PAGE, PROT_READ | PROT_WRITE)
    yield made
    made.close()


def add_by_file(ioas: Ioas, iova: int, size: int) -> None:
    fd = os.memfd_create("client", os.MFD_CLOEXEC)
    os.ftruncate(fd, size)
    ioas.map(iova, size, PROT_READ | PROT_WRITE, fd, 0, ACCESS_FILE)
    os.close(fd)


def error_of(call: object) -> int:
    """The errno of the DmaError that a call raises."""
    assert callable(call)
    with pytest.raises(DmaError) as raised:
        call()
    return raised.value.errno


async def error_when_awaited(work: "asyncio.Future[object] | object") -> int:
    """The errno of the DmaError that awaiting ends with."""
    with pytest.raises(DmaError) as raised:
        await work  # type: ignore[misc]
    return raised.value.errno
