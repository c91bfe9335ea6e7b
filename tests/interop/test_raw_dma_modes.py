"""The access modes of DMA_MAP from outside: testdev's engine in memory that is mapped, file I/O, or neither."""

import errno
import os
import socket
from collections.abc import Callable

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server, eventually, refused
from tests.interop.dma.conftest import COPY, DONE, FAILED, FILL, FROM_BUFFER, PATTERN, SIZE, TO_BUFFER, dma

MMAP, FILE_IO = 4, 8
RW = raw.READABLE | raw.WRITEABLE
BASE = 0x100000


@pytest.mark.parametrize("mode", [0, MMAP, FILE_IO, MMAP | FILE_IO])
def test_every_dma_command_works_in_every_mode(server: Server, client: raw.Client, memory: int, mode: int) -> None:
    """field-notes A.1: bit 2 mmap, bit 3 file I/O; only what may be mapped is."""
    os.pwrite(memory, PATTERN, 0)
    client.dma_map(BASE, SIZE, memory, RW | mode)
    assert ("memfd:guest" in server.mappings()) == (mode != FILE_IO)
    assert dma(client, COPY, BASE + 3, BASE + 0x80001, 0x10005) == DONE
    assert dma(client, TO_BUFFER, BASE + 5, 0, 0x1000) == DONE
    assert dma(client, FROM_BUFFER, 0, BASE + 0xC0000, 0x1000) == DONE
    client.write(raw.BAR0, 4, 0x5A)
    assert dma(client, FILL, 0, BASE + SIZE - 3, 3) == DONE
    after = os.pread(memory, SIZE, 0)
    assert after[0x80001:0x90006] == PATTERN[3:0x10008]
    assert after[0xC0000:0xC1000] == PATTERN[5:0x1005]
    assert after[-4:] == PATTERN[-4:-3] + b"ZZZ"
    assert client.served == []
    client.dma_unmap(BASE, SIZE)
    assert "memfd:guest" not in server.mappings()


def test_file_that_is_cut_is_efault_and_never_grows_again(client: raw.Client, memory: int) -> None:
    """S1.12."""
    client.dma_map(BASE, SIZE, memory, RW | FILE_IO)
    os.ftruncate(memory, SIZE // 2)
    for place in (SIZE // 2, SIZE // 2 - 8, SIZE - 16):
        assert dma(client, FROM_BUFFER, 0, BASE + place, 16) == FAILED | errno.EFAULT
        assert dma(client, TO_BUFFER, BASE + place, 0, 16) == FAILED | errno.EFAULT
    assert os.fstat(memory).st_size == SIZE // 2
    assert dma(client, FROM_BUFFER, 0, BASE, 16) == DONE


@pytest.mark.parametrize("mode", [MMAP, FILE_IO, MMAP | FILE_IO])
def test_mode_without_a_descriptor_is_einval(client: raw.Client, mode: int) -> None:
    """field-notes A.1."""
    with refused(errno.EINVAL):
        client.dma_map(BASE, SIZE, None, RW | mode)
    client.dma_map(BASE, SIZE)


@pytest.mark.parametrize("mode", [0, MMAP, FILE_IO, MMAP | FILE_IO])
def test_writeable_with_a_read_only_descriptor_is_eperm(client: raw.Client, memory: int, mode: int) -> None:
    """S1.5: although the same file is already there for writing."""
    client.dma_map(0x40000000, SIZE, memory, RW | mode)
    fd = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY)
    with refused(errno.EPERM):
        client.dma_map(BASE, SIZE, fd, RW | mode)
    client.dma_map(BASE, SIZE, fd, raw.READABLE | mode)
    assert dma(client, TO_BUFFER, BASE, 0, 16) == DONE
    assert dma(client, FROM_BUFFER, 0, BASE, 16) == FAILED | errno.EPERM
    os.close(fd)


def odd(kind: str) -> int:
    """A descriptor of a kind that has no bytes at places."""
    if kind == "pipe":
        keep, give = os.pipe()
        os.close(keep)
        return give
    makers: dict[str, Callable[[], int]] = {
        "socket": lambda: socket.socket(socket.AF_UNIX).detach(),
        "directory": lambda: os.open("/", os.O_RDONLY),
        "eventfd": lambda: os.eventfd(0),
        "path": lambda: os.open("/", os.O_PATH),
    }
    return makers[kind]()


@pytest.mark.parametrize("kind", ["pipe", "socket", "directory", "eventfd", "path"])
@pytest.mark.parametrize("mode", [0, FILE_IO, MMAP | FILE_IO])
def test_descriptor_without_places_is_refused_and_closed(
    server: Server, client: raw.Client, memory: int, kind: str, mode: int
) -> None:
    before, fd = server.descriptors(), odd(kind)
    for access in (raw.READABLE, raw.WRITEABLE):
        with pytest.raises(raw.RefusedError):
            client.dma_map(BASE, 4096, fd, access | mode)
    os.close(fd)
    assert eventually(lambda: server.descriptors() == before)
    client.dma_map(BASE, SIZE, memory, RW | mode)
    assert dma(client, TO_BUFFER, BASE, 0, 16) == DONE


def test_file_opened_to_append_is_einval(client: raw.Client, memory: int) -> None:
    """A pwrite to it would go to the end."""
    fd = os.open(f"/proc/self/fd/{memory}", os.O_RDWR | os.O_APPEND)
    with refused(errno.EINVAL):
        client.dma_map(BASE, SIZE, fd, RW | FILE_IO)
    client.dma_map(BASE, SIZE, fd, RW | MMAP)
    assert dma(client, FROM_BUFFER, 0, BASE, 16) == DONE
    assert os.fstat(memory).st_size == SIZE
    os.close(fd)


def test_descriptor_of_file_io_goes_with_the_connection(server: Server, memory: int) -> None:
    with raw.Client(server.path) as client:
        client.dma_map(BASE, SIZE, memory, RW | FILE_IO)
        assert server.descriptors() == server.idle + 2
    assert eventually(server.at_rest)
