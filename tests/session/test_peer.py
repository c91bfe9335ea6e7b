"""What can be known of a client without asking it (field-notes C.2, G)."""

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from vfuserver.client import QEMU_PROPOSAL
from vfuserver.session.peer import looks_like_qemu, maps_shared

PAGE = mmap.PAGESIZE


def test_qemu_is_known_by_what_it_proposes() -> None:
    assert looks_like_qemu(QEMU_PROPOSAL)
    for key in QEMU_PROPOSAL:
        assert not looks_like_qemu({name: value for name, value in QEMU_PROPOSAL.items() if name != key})
    assert not looks_like_qemu({})


@pytest.fixture
def memfd() -> Iterator[int]:
    fd = os.memfd_create("peer-test")
    os.ftruncate(fd, PAGE)
    yield fd
    os.close(fd)


CLIENT = """
import mmap, sys
maps = [mmap.mmap(int(sys.argv[1]), mmap.PAGESIZE, flags=getattr(mmap, name)) for name in sys.argv[2:]]
print("mapped", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("ways", "shared"),
    [
        (["MAP_SHARED"], True),
        (["MAP_PRIVATE"], False),
        (["MAP_SHARED", "MAP_SHARED"], True),
        (["MAP_PRIVATE", "MAP_SHARED"], None),
        ([], True),
    ],
)
def test_mappings_of_another_process_tell_what_it_sees(memfd: int, ways: list[str], shared: bool | None) -> None:
    """A process without any mapping of the file has no copy of its own."""
    words = [sys.executable, "-c", CLIENT, str(memfd), *ways]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[memfd]) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"mapped\n"
        file = os.fstat(memfd)
        assert maps_shared(client.pid, file.st_dev, file.st_ino) is shared
        client.communicate()


def test_process_that_is_gone_tells_nothing(memfd: int) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as client:
        client.wait()
    file = os.fstat(memfd)
    assert maps_shared(client.pid, file.st_dev, file.st_ino) is None
