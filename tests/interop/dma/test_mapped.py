"""DMA of testdev in memory that the server maps."""

import errno
import os
from collections.abc import Callable

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Eventfd, Server
from tests.interop.dma.conftest import (
    COPY,
    DONE,
    FAILED,
    FILL,
    FROM_BUFFER,
    HIGH,
    IDLE,
    MAPPED,
    PATTERN,
    REMOTE,
    SIGNAL,
    SIZE,
    STATUS,
    TO_BUFFER,
    dma,
    start,
)


def test_dma_copy_in_mapped_memory_moves_the_bytes(mapped: raw.Client, memory: int) -> None:
    """testdev.md 0x34: 1 copies IOVA to IOVA; mapped memory needs no message."""
    assert mapped.read(raw.BAR0, STATUS) == IDLE
    assert dma(mapped, COPY, MAPPED + 3, MAPPED + 0x80001, 0x10005) == DONE
    assert os.pread(memory, SIZE, 0) == PATTERN[:0x80001] + PATTERN[3:0x10008] + PATTERN[0x90006:]
    assert mapped.served == []


def test_dma_through_the_buffer_in_mapped_memory_moves_the_bytes(mapped: raw.Client, memory: int) -> None:
    """testdev.md 0x34: 2 IOVA to buffer, 3 buffer to IOVA; 64 KiB at most, any offset of the buffer."""
    assert dma(mapped, TO_BUFFER, MAPPED, 0, 0x10000) == DONE
    assert dma(mapped, TO_BUFFER, MAPPED + 0x1000, 0xFFF0, 0x10) == DONE
    assert dma(mapped, FROM_BUFFER, 0, MAPPED + 0x20000, 0x10000) == DONE
    assert dma(mapped, FROM_BUFFER, 7, MAPPED + 0x40000, 9) == DONE
    after = os.pread(memory, SIZE, 0)
    assert after[0x20000:0x30000] == PATTERN[:0xFFF0] + PATTERN[0x1000:0x1010]
    assert after[0x40000:0x40010] == PATTERN[7:16] + PATTERN[0x40009:0x40010]


def test_dma_fill_in_mapped_memory_writes_the_low_byte_of_scratch(mapped: raw.Client, memory: int) -> None:
    """testdev.md 0x34: 4 fills the destination with the low byte of the scratch register."""
    mapped.write(raw.BAR0, 4, 0x112233A7)
    assert dma(mapped, FILL, 0, MAPPED + 1, 5000) == DONE
    assert os.pread(memory, SIZE, 0) == PATTERN[:1] + b"\xa7" * 5000 + PATTERN[5001:]


def test_dma_map_at_an_offset_of_the_file_reaches_that_part(client: raw.Client, memory: int) -> None:
    """Specification, DMA_MAP: offset is the file offset of the region."""
    client.dma_map(0, 0x2000, memory, offset=0x5000)
    client.write(raw.BAR0, 4, 0xEE)
    assert dma(client, FILL, 0, 0x1FFF, 1) == DONE
    assert os.pread(memory, 1, 0x6FFF) == b"\xee"
    assert os.pread(memory, SIZE, 0).count(0xEE) == 1


def test_dma_with_bit_8_raises_vector_1_when_done(mapped: raw.Client, eventfds: Callable[..., list[Eventfd]]) -> None:
    """testdev.md 0x34: bit 8."""
    events = eventfds(2)
    mapped.arm(raw.MSIX, [event.fd for event in events])
    start(mapped, FILL | SIGNAL, 0, MAPPED, 64)
    assert events[1].fires() == 1
    assert mapped.read(raw.BAR0, STATUS) == DONE
    assert dma(mapped, FILL, 0, MAPPED, 64) == DONE
    assert [event.fired() for event in events] == [0, 0]


ERRORS = [
    ("unmapped source", COPY, 0x10, MAPPED, 16, errno.EFAULT),
    ("unmapped destination", COPY, MAPPED, 0x10, 16, errno.EFAULT),
    ("source beyond the mapping", COPY, MAPPED + SIZE - 8, MAPPED, 16, errno.EFAULT),
    ("destination beyond the mapping", FILL, 0, MAPPED + SIZE - 8, 16, errno.EFAULT),
    ("before the mapping", FILL, 0, MAPPED - 8, 16, errno.EFAULT),
    ("end of the address space", FILL, 0, HIGH + 0xFF8, 16, errno.EFAULT),
    ("no command", 0, MAPPED, MAPPED, 16, errno.EINVAL),
    ("unknown command", 5, MAPPED, MAPPED, 16, errno.EINVAL),
    ("unknown command with bit 8", 0x109, MAPPED, MAPPED, 16, errno.EINVAL),
    ("too long", COPY, MAPPED, MAPPED, (64 << 20) + 1, errno.EINVAL),
    ("longest and beyond", FILL, 0, MAPPED, 64 << 20, errno.EFAULT),
    ("too long for the buffer", TO_BUFFER, MAPPED, 0, 0x10001, errno.EINVAL),
    ("beyond the buffer", TO_BUFFER, MAPPED, 0xFFFF, 2, errno.EINVAL),
    ("far beyond the buffer", FROM_BUFFER, HIGH, MAPPED, 16, errno.EINVAL),
]


@pytest.mark.parametrize(
    ("command", "source", "destination", "length", "code"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS]
)
def test_dma_that_cannot_be_done_tells_why(
    mapped: raw.Client, memory: int, command: int, source: int, destination: int, length: int, code: int
) -> None:
    """testdev.md 0x38: 0x80000000 + errno; the next command works."""
    assert dma(mapped, command, source, destination, length) == FAILED + code
    assert dma(mapped, FILL, 0, MAPPED, 1) == DONE


@pytest.mark.parametrize(
    ("flags", "reads", "writes"), [(1, DONE, FAILED + errno.EPERM), (2, FAILED + errno.EPERM, DONE)]
)
def test_dma_against_the_permissions_is_eperm(
    client: raw.Client, memory: int, flags: int, reads: int, writes: int
) -> None:
    """S1.5: readable is bit 0, writeable bit 1; the memory is unchanged."""
    os.pwrite(memory, PATTERN, 0)
    client.dma_map(0, SIZE, memory, flags)
    client.write(raw.BAR0, 4, 0x5A)
    assert dma(client, TO_BUFFER, 0x100, 0, 0x100) == reads
    assert dma(client, FILL, 0, 0, 0x100) == writes
    assert os.pread(memory, 0x100, 0) == (b"\x5a" * 0x100 if writes == DONE else PATTERN[:0x100])


@pytest.mark.parametrize("flags", [1, 2])
def test_dma_of_message_memory_against_the_permissions_sends_no_message(client: raw.Client, flags: int) -> None:
    """S1.5: the permission is the server's to check."""
    client.memory[REMOTE] = bytearray(SIZE)
    client.dma_map(REMOTE, SIZE, flags=flags)
    command = FILL if flags == 1 else TO_BUFFER
    assert dma(client, command, REMOTE, REMOTE if command == FILL else 0, 64) == FAILED + errno.EPERM
    assert client.served == []


def test_dma_map_read_only_is_mapped_read_only(server: Server, client: raw.Client, memory: int) -> None:
    """S1.5: the mmap is PROT_READ only."""
    client.dma_map(0, SIZE, memory, raw.READABLE)
    (line,) = [line for line in server.mappings().splitlines() if "memfd:guest" in line]
    assert line.split()[1] == "r--s"


@pytest.mark.parametrize("flags", [(1, 3), (3, 1)])
def test_dma_map_of_one_file_with_two_permissions_keeps_them_apart(
    client: raw.Client, memory: int, flags: tuple[int, int]
) -> None:
    """S1.5: a read-only source must not serve a writable copy, nor the reverse."""
    for at, flag in zip((0, SIZE), flags, strict=True):
        client.dma_map(at, SIZE, memory, flag)
    client.write(raw.BAR0, 4, 0x5A)
    expected = {1: FAILED + errno.EPERM, 3: DONE}
    assert dma(client, FILL, 0, 0, 1) == expected[flags[0]]
    assert dma(client, FILL, 0, SIZE + 1, 1) == expected[flags[1]]
    assert os.pread(memory, 2, 0) == (b"\0\x5a" if flags[1] == 3 else b"\x5a\0")


def test_dma_map_of_a_file_that_has_grown_reaches_the_new_part(client: raw.Client, memory: int) -> None:
    """Specification, DMA_MAP: each map says what it maps, whatever an earlier one of the same file was."""
    client.dma_map(0, SIZE, memory)
    os.ftruncate(memory, 2 * SIZE)
    client.dma_map(SIZE, SIZE, memory, offset=SIZE)
    client.write(raw.BAR0, 4, 0x77)
    assert dma(client, FILL, 0, SIZE - 8, 16) == DONE
    assert os.pread(memory, 18, SIZE - 9) == b"\0" + b"\x77" * 16 + b"\0"


def test_dma_without_bus_mastering_is_eperm(mapped: raw.Client, memory: int) -> None:
    """S2.15, testdev.md 0x38."""
    mapped.write(raw.CONFIG, 4, 3, 2)
    assert dma(mapped, FILL, 0, MAPPED, 64) == FAILED + errno.EPERM
    assert os.pread(memory, SIZE, 0) == PATTERN
    mapped.write(raw.CONFIG, 4, 7, 2)
    assert dma(mapped, FILL, 0, MAPPED, 64) == DONE


def test_dma_after_unmap_is_efault(mapped: raw.Client, server: Server) -> None:
    """Specification, DMA_UNMAP: all references are released before the reply."""
    mapped.dma_unmap(MAPPED, SIZE)
    assert "memfd:guest" not in server.mappings()
    assert dma(mapped, FILL, 0, MAPPED, 64) == FAILED + errno.EFAULT
