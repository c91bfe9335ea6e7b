"""DMA of testdev in memory that is reached by messages, and between that and mapped memory."""

import errno
import os
import struct

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server, eventually
from tests.interop.dma.conftest import (
    BUSY,
    COMMAND,
    COPY,
    DONE,
    FAILED,
    FILL,
    FROM_BUFFER,
    IDLE,
    LENGTH,
    MAPPED,
    PATTERN,
    REMOTE,
    SIZE,
    SOURCE,
    STATUS,
    TO_BUFFER,
    dma,
    finish,
    start,
)


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
