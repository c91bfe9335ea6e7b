"""DMA of testdev: memory that the server maps, memory that it reaches by messages, and the table of both."""

import errno
import os
import struct
from collections.abc import Callable

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Eventfd, Server, eventually, refused

SOURCE, DESTINATION, LENGTH, COMMAND, STATUS = 0x20, 0x28, 0x30, 0x34, 0x38
IDLE, BUSY, DONE, FAILED = 0, 1, 2, 0x80000000
COPY, TO_BUFFER, FROM_BUFFER, FILL, SIGNAL = 1, 2, 3, 4, 0x100
MAPPED, REMOTE, SIZE = 0x100000, 0x40000000, 1 << 20
PATTERN = bytes((n * 31 + n // 256) & 0xFF for n in range(SIZE))


def start(client: raw.Client, command: int, source: int = 0, destination: int = 0, length: int = 0) -> None:
    """Write the registers, the command last."""
    client.write(raw.BAR0, SOURCE, source, 8)
    client.write(raw.BAR0, DESTINATION, destination, 8)
    client.write(raw.BAR0, LENGTH, length)
    client.write(raw.BAR0, COMMAND, command)


def finish(client: raw.Client) -> int:
    """The status, once it is not busy; DMA messages are answered meanwhile."""
    assert eventually(lambda: client.read(raw.BAR0, STATUS) != BUSY)
    return client.read(raw.BAR0, STATUS)


def dma(client: raw.Client, command: int, source: int = 0, destination: int = 0, length: int = 0) -> int:
    """The whole of a job."""
    start(client, command, source, destination, length)
    return finish(client)


@pytest.fixture
def mapped(client: raw.Client, memory: int) -> raw.Client:
    """A client with 1 MiB at MAPPED that the server maps, full of the pattern."""
    os.pwrite(memory, PATTERN, 0)
    client.dma_map(MAPPED, SIZE, memory)
    return client


@pytest.fixture
def remote(client: raw.Client) -> raw.Client:
    """A client with 1 MiB at REMOTE that is reached by messages, full of the pattern."""
    client.memory[REMOTE] = bytearray(PATTERN)
    client.dma_map(REMOTE, SIZE)
    return client


# Mapped memory


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


HIGH = (1 << 64) - 0x1000
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


# Memory reached by messages


def test_dma_message_after_the_command_write_comes_after_its_reply(remote: raw.Client) -> None:
    """Issue 2: DMA_READ and DMA_WRITE are never sent before the register write is answered (field-notes C.8)."""
    remote.write(raw.BAR0, SOURCE, REMOTE, 8)
    remote.write(raw.BAR0, LENGTH, 64)
    for _ in range(20):
        ident = remote.send(raw.REGION_WRITE, raw.ACCESS.pack(COMMAND, raw.BAR0, 4) + struct.pack("<I", TO_BUFFER))
        first = remote.receive()
        assert (first.ident, first.flags) == (ident, raw.REPLY)
        second = remote.receive_dma()
        assert (second.command, second.flags, second.error, second.fds) == (raw.DMA_READ, 0, 0, [])
        assert second.payload == raw.DMA_ACCESS.pack(REMOTE, 64)
        remote.answer(second)
        assert finish(remote) == DONE


def test_dma_copy_by_messages_moves_the_bytes(remote: raw.Client) -> None:
    """Specification, DMA_READ and DMA_WRITE: 64-bit count, data at byte 16 of the payload."""
    assert dma(remote, COPY, REMOTE + 1, REMOTE + 0x80003, 0x20001) == DONE
    assert remote.memory[REMOTE] == PATTERN[:0x80003] + PATTERN[1:0x20002] + PATTERN[0xA0004:]
    assert {command for command, _, _ in remote.served} == {raw.DMA_READ, raw.DMA_WRITE}


def test_dma_of_every_command_by_messages_moves_the_bytes(remote: raw.Client) -> None:
    """testdev.md 0x34: 2, 3 and 4."""
    remote.write(raw.BAR0, 4, 0x3C)
    assert dma(remote, TO_BUFFER, REMOTE + 5, 0x100, 0x8001) == DONE
    assert dma(remote, FROM_BUFFER, 0x100, REMOTE + 0x40000, 0x8001) == DONE
    assert dma(remote, FILL, 0, REMOTE + 0x60000, 0x8001) == DONE
    after = remote.memory[REMOTE]
    assert after[0x40000:0x48002] == PATTERN[5:0x8006] + PATTERN[0x48001:0x48002]
    assert after[0x60000:0x68002] == b"\x3c" * 0x8001 + PATTERN[0x68001:0x68002]


@pytest.mark.parametrize("limit", [1, 4096, 5000, 1 << 20, 16 << 20])
def test_dma_messages_are_no_longer_than_the_smaller_limit(server: Server, limit: int) -> None:
    """testdev.md: pieces no larger than the smaller of both sides' max_data_xfer_size."""
    length = min(1 << 20, limit * 20 + 7)
    proposal = b'{"capabilities":{"max_data_xfer_size":%d}}\0' % limit
    with raw.Client(server.path, proposal) as client:
        client.reset()
        client.write(raw.CONFIG, 4, 7, 2)
        client.memory[REMOTE] = bytearray(PATTERN + bytes(SIZE))
        client.dma_map(REMOTE, 2 * SIZE)
        assert dma(client, COPY, REMOTE, REMOTE + SIZE, length) == DONE
        assert client.memory[REMOTE][SIZE:] == PATTERN[:length] + bytes(SIZE - length)
        assert max(count for _, _, count in client.served) <= min(limit, 1 << 20)


@pytest.mark.parametrize("code", [errno.EFAULT, errno.ENODEV, errno.EPERM, errno.EINVAL])
def test_dma_message_that_the_client_refuses_is_eio(remote: raw.Client, code: int) -> None:
    """testdev.md 0x38: EIO for an error reply of the client."""
    remote.dma_error = code
    assert dma(remote, COPY, REMOTE, REMOTE + 0x1000, 64) == FAILED + errno.EIO
    assert dma(remote, FILL, 0, REMOTE, 64) == FAILED + errno.EIO
    remote.dma_error = 0
    assert dma(remote, FILL, 0, REMOTE, 64) == DONE


def test_dma_command_while_busy_is_ebusy_and_the_running_one_goes_on(remote: raw.Client) -> None:
    """testdev.md 0x38: EBUSY a command while busy."""
    start(remote, TO_BUFFER, REMOTE, 0, 64)
    held = remote.receive_dma()
    assert remote.read(raw.BAR0, STATUS) == BUSY
    remote.write(raw.BAR0, COMMAND, FILL)
    assert remote.read(raw.BAR0, STATUS) == FAILED + errno.EBUSY
    remote.answer(held)
    assert eventually(lambda: remote.read(raw.BAR0, STATUS) == DONE)
    assert dma(remote, FROM_BUFFER, 0, REMOTE + 0x1000, 64) == DONE
    assert remote.memory[REMOTE][0x1000:0x1040] == PATTERN[:64]
    assert remote.memory[REMOTE][:64] == PATTERN[:64]


def test_dma_while_a_message_waits_leaves_the_device_serving(server: Server, remote: raw.Client) -> None:
    """Specification: it is illegal to stall command processing while waiting for replies on the other channel."""
    start(remote, TO_BUFFER, REMOTE, 0, 64)
    held = remote.receive_dma()
    for value in range(100):
        remote.write(raw.BAR0, 4, value)
        assert remote.read(raw.BAR0, 4) == value
    remote.answer(held)
    assert finish(remote) == DONE


def test_dma_when_reset_in_the_middle_is_cancelled(remote: raw.Client) -> None:
    """Issue 2: reset cancels jobs; the late reply to their message is harmless."""
    start(remote, COPY, REMOTE, REMOTE + 0x1000, 64)
    held = remote.receive_dma()
    remote.reset()
    remote.write(raw.CONFIG, 4, 7, 2)
    assert remote.read(raw.BAR0, STATUS) == IDLE
    remote.answer(held)
    assert remote.read(raw.BAR0, STATUS) == IDLE
    assert remote.memory[REMOTE] == PATTERN
    assert dma(remote, FILL, 0, REMOTE, 64) == DONE


def test_dma_when_the_client_leaves_in_the_middle_is_enodev(server: Server) -> None:
    """testdev.md 0x38: ENODEV no client; issue 2: a disconnect makes the jobs' DMA fail."""
    with raw.Client(server.path) as client:
        client.reset()
        client.write(raw.CONFIG, 4, 7, 2)
        client.dma_map(REMOTE, SIZE)
        start(client, COPY, REMOTE, REMOTE, 64)
        assert client.receive_dma().command == raw.DMA_READ
    with raw.Client(server.path) as client:
        assert finish(client) == FAILED + errno.ENODEV
        assert dma(client, FILL, 0, REMOTE, 64) == FAILED + errno.EFAULT


def test_dma_when_unmapped_in_the_middle_touches_nothing_afterwards(remote: raw.Client) -> None:
    """Specification, DMA_UNMAP: in-flight transactions are over before the reply."""
    start(remote, COPY, REMOTE, REMOTE + 0x1000, 64)
    held = remote.receive_dma()
    ident = remote.send(raw.DMA_UNMAP, struct.pack("=IIQQ", 24, 0, REMOTE, SIZE))
    remote.answer(held)
    served = len(remote.served)
    assert remote.reply(ident).payload
    if len(remote.served) == served:
        assert finish(remote) == FAILED + errno.EFAULT
        assert len(remote.served) == served
        assert remote.memory[REMOTE] == PATTERN


# Both


def test_dma_between_mapped_and_message_memory_moves_the_bytes(
    mapped: raw.Client, remote: raw.Client, memory: int
) -> None:
    """Issue 2: mapped memory is copied, the rest goes by messages."""
    os.pwrite(memory, bytes(SIZE), 0)
    assert dma(mapped, COPY, REMOTE + 9, MAPPED + 5, 0x30001) == DONE
    assert os.pread(memory, SIZE, 0) == bytes(5) + PATTERN[9:0x3000A] + bytes(SIZE - 0x30006)
    os.pwrite(memory, b"from the mapped side", 0x50000)
    assert dma(mapped, COPY, MAPPED + 0x50000, REMOTE, 20) == DONE
    assert remote.memory[REMOTE][:20] == b"from the mapped side"


def test_dma_across_two_adjacent_mappings_moves_the_bytes(mapped: raw.Client, memory: int) -> None:
    """S1.10 keeps neighbours apart; a device sees one range of addresses (mapped, then messages)."""
    mapped.memory[MAPPED + SIZE] = bytearray(0x1000)
    mapped.dma_map(MAPPED + SIZE, 0x1000)
    mapped.write(raw.BAR0, 4, 0x99)
    assert dma(mapped, FILL, 0, MAPPED + SIZE - 16, 32) == DONE
    assert os.pread(memory, 16, SIZE - 16) == b"\x99" * 16
    assert mapped.memory[MAPPED + SIZE][:17] == b"\x99" * 16 + b"\0"


# The table (S1.10)


def dma_map(client: raw.Client, argsz: int, flags: int, offset: int, address: int, size: int) -> None:
    """DMA_MAP with every field free."""
    client.request(raw.DMA_MAP, struct.pack("=IIQQQ", argsz, flags, offset, address, size))


MAP_ERRORS = [
    ("argsz", (31, 3, 0, 0x1000, 0x1000), errno.EINVAL),
    ("no permission", (32, 0, 0, 0x1000, 0x1000), errno.EINVAL),
    ("unknown flag", (32, 7, 0, 0x1000, 0x1000), errno.EINVAL),
    ("size 0", (32, 3, 0, 0x1000, 0), errno.EINVAL),
    ("wrap", (32, 3, 0, HIGH, 0x2000), errno.EINVAL),
    ("address misaligned", (32, 3, 0, 0x1001, 0x1000), errno.EINVAL),
    ("size misaligned", (32, 3, 0, 0x1000, 0x1001), errno.EINVAL),
    ("the same", (32, 3, 0, 0x10000, 0x4000), errno.EEXIST),
    ("overlap at the start", (32, 3, 0, 0xF000, 0x2000), errno.EEXIST),
    ("overlap at the end", (32, 3, 0, 0x13000, 0x2000), errno.EEXIST),
    ("inside", (32, 3, 0, 0x11000, 0x1000), errno.EEXIST),
    ("around", (32, 3, 0, 0, 0x100000), errno.EEXIST),
]


@pytest.mark.parametrize(("fields", "code"), [e[1:] for e in MAP_ERRORS], ids=[e[0] for e in MAP_ERRORS])
def test_dma_map_that_is_wrong_is_refused(client: raw.Client, fields: tuple[int, ...], code: int) -> None:
    """S1.10, S1.5, S3.17."""
    client.dma_map(0x10000, 0x4000)
    with refused(code):
        dma_map(client, *fields)
    client.dma_map(0xF000, 0x1000)
    client.dma_map(0x14000, 0x1000)


def test_dma_map_that_ends_at_2_to_the_64_is_taken(client: raw.Client) -> None:
    """S1.10: an end of exactly 2^64 is not a wrap."""
    client.memory[HIGH] = bytearray(0x1000)
    client.dma_map(HIGH, 0x1000)
    with refused(errno.EEXIST):
        client.dma_map(HIGH, 0x1000)
    assert dma(client, FILL, 0, HIGH + 0xFF0, 16) == DONE
    client.dma_unmap(0xFFFFFFFFFFF00000, 0x100000)
    client.dma_map(HIGH, 0x1000)


def test_dma_map_with_two_fds_is_einval(server: Server, client: raw.Client, memory: int) -> None:
    """S1.10: more than one fd is EINVAL and all are closed."""
    before = server.descriptors()
    for count in (2, 3, 16):
        with refused(errno.EINVAL):
            client.request(raw.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, 0, 4096), [memory] * count)
    assert eventually(lambda: server.descriptors() == before)
    client.dma_map(0, 4096, memory)


def test_dma_map_with_an_fd_that_cannot_be_mapped_is_refused(server: Server, client: raw.Client) -> None:
    """Specification: if the memory can be mapped a descriptor is sent, so one that cannot be is an error."""
    before = server.descriptors()
    ours = [*os.pipe(), os.eventfd(0), os.open("/", os.O_RDONLY)]
    for fd in ours:
        with pytest.raises(raw.RefusedError):
            client.dma_map(0, 4096, fd)
        os.close(fd)
    assert eventually(lambda: server.descriptors() == before)
    client.dma_map(0, 4096)


def test_dma_map_beyond_the_end_of_the_file_is_refused(client: raw.Client, memory: int) -> None:
    """Specification, Security Considerations: touching what is behind the file's end would be a SIGBUS."""
    with pytest.raises(raw.RefusedError):
        client.dma_map(0, 2 * SIZE, memory)
    with pytest.raises(raw.RefusedError):
        client.dma_map(0, SIZE, memory, offset=0x1000)
    client.dma_map(0, SIZE, memory)


@pytest.mark.parametrize(("command", "source"), [(FILL, 0), (TO_BUFFER, MAPPED), (COPY, MAPPED)])
def test_dma_to_a_file_that_the_client_has_cut_does_not_kill_the_server(
    own_server: Server, memory: int, command: int, source: int
) -> None:
    """Issue 2: never a crash; specification, Security Considerations: servers do not trust clients."""
    with raw.Client(own_server.path) as client:
        client.write(raw.CONFIG, 4, 7, 2)
        client.dma_map(MAPPED, SIZE, memory)
        os.ftruncate(memory, 0)
        assert dma(client, command, source, 0 if command == TO_BUFFER else MAPPED, 64) == 0x80000000 | errno.EFAULT
    assert own_server.process.poll() is None, "the server process is dead"
    with raw.Client(own_server.path) as client:
        assert client.read(raw.BAR0, 0) == 0x54534554


def table(client: raw.Client) -> None:
    """Three maps: 0x10000+0x4000, 0x14000+0x1000, 0x20000+0x1000."""
    for address, size in ((0x10000, 0x4000), (0x14000, 0x1000), (0x20000, 0x1000)):
        client.dma_map(address, size)


def left(client: raw.Client) -> set[int]:
    """Which of the three are still there."""
    found: set[int] = set()
    for address, size in ((0x10000, 0x4000), (0x14000, 0x1000), (0x20000, 0x1000)):
        message = client.send(raw.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, address, size))
        code = client.receive()[0:4:3]
        assert code in ((message, 0), (message, errno.EEXIST))
        found |= {address} if code[1] else set()
    return found


UNMAPS = [
    ("exact", (0x10000, 0x4000, 0), {0x14000, 0x20000}),
    ("two", (0x10000, 0x5000, 0), {0x20000}),
    ("two with room around", (0xF000, 0x7000, 0), {0x20000}),
    ("everything", (0, 0x100000, 0), set()),
    ("power of two", (0, 1 << 63, 0), set()),
    ("to 2^64", (0x8000, (1 << 64) - 0x8000, 0), set()),
    ("all", (0, 0, 2), set()),
]


@pytest.mark.parametrize(("fields", "rest"), [u[1:] for u in UNMAPS], ids=[u[0] for u in UNMAPS])
def test_dma_unmap_removes_every_mapping_inside_the_range(
    client: raw.Client, fields: tuple[int, int, int], rest: set[int]
) -> None:
    """S1.10; the reply repeats the entry of the request."""
    table(client)
    assert client.dma_unmap(*fields) == struct.pack("=IIQQ", 24, fields[2], fields[0], fields[1])
    assert left(client) == rest


UNMAP_ERRORS = [
    ("cuts the start", (0x10000, 0x2000, 0), errno.ENOENT),
    ("cuts the end", (0x12000, 0x2000, 0), errno.ENOENT),
    ("cuts the middle", (0x11000, 0x1000, 0), errno.ENOENT),
    ("one whole and a cut", (0x12000, 0x10000, 0), errno.ENOENT),
    ("nothing there", (0x30000, 0x1000, 0), errno.ENOENT),
    ("size 0", (0x10000, 0, 0), errno.EINVAL),
    ("wrap", (HIGH, 0x2000, 0), errno.EINVAL),
    ("address misaligned", (0x10001, 0x4000, 0), errno.EINVAL),
    ("size misaligned", (0x10000, 0x3FFF, 0), errno.EINVAL),
    ("dirty bitmap", (0x10000, 0x4000, 1), errno.EINVAL),
    ("unknown flag", (0x10000, 0x4000, 4), errno.EINVAL),
    ("all with an address", (0x10000, 0, 2), errno.EINVAL),
    ("all with a size", (0, 0x1000, 2), errno.EINVAL),
    ("all and dirty bitmap", (0, 0, 3), errno.EINVAL),
]


@pytest.mark.parametrize(("fields", "code"), [u[1:] for u in UNMAP_ERRORS], ids=[u[0] for u in UNMAP_ERRORS])
def test_dma_unmap_that_is_wrong_removes_nothing(client: raw.Client, fields: tuple[int, int, int], code: int) -> None:
    """S1.10: a range that cuts a mapping or hits none is ENOENT, and nothing is removed."""
    table(client)
    with refused(code):
        client.dma_unmap(*fields)
    assert left(client) == {0x10000, 0x14000, 0x20000}


def test_dma_unmap_of_all_in_an_empty_table_succeeds(client: raw.Client) -> None:
    """S1.10; argsz below 24 is EINVAL."""
    assert len(client.dma_unmap(0, 0, 2)) == 24
    with refused(errno.EINVAL):
        client.dma_unmap(0, 0, 2, argsz=23)
    assert len(client.dma_unmap(0, 0, 2, argsz=4096)) == 24


def test_dma_maps_1000_pipelined_with_one_failure_answer_in_order(
    server: Server, client: raw.Client, memory: int
) -> None:
    """S1.11: 1000 pipelined maps and unmaps with one deliberate failure; only that ID errors; S1.10: fd leak check."""
    before = server.descriptors()
    idents = []
    for n in range(500):
        address = 0x1000 if n == 250 else 0x1000 * (n + 1)
        payload = struct.pack("=IIQQQ", 32, 3, 0, address, 0x1000)
        idents.append(client.send(raw.DMA_MAP, payload, [memory] if n % 2 else []))
    replies = [client.receive() for _ in range(500)]
    idents += [client.send(raw.DMA_UNMAP, struct.pack("=IIQQ", 24, 0, 0x1000 * (n + 1), 0x1000)) for n in range(500)]
    replies += [client.receive() for _ in range(500)]
    assert [reply.ident for reply in replies] == idents
    assert [(n, reply.error) for n, reply in enumerate(replies) if reply.flags != raw.REPLY] == [
        (250, errno.EEXIST),
        (750, errno.ENOENT),
    ]
    assert eventually(lambda: server.descriptors() == before)
