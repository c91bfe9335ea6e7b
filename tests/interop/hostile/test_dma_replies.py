"""Replies to DMA messages that no honest client gives, and every honest one."""

import contextlib
import struct

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server, eventually
from tests.interop.hostile.conftest import MIB, send_what_it_takes


def wrong_replies(message: raw.Message) -> list[bytes]:
    """Answers to a DMA_READ of 64 bytes that no honest client gives."""
    head = (message.ident, message.command)
    good = message.payload + bytes(64)
    return [
        raw.HEADER.pack(*head, 16, raw.REPLY, 0),
        raw.HEADER.pack(*head, 32, raw.REPLY, 0) + message.payload,
        raw.HEADER.pack(*head, 95, raw.REPLY, 0) + good[:-1],
        raw.HEADER.pack(*head, 97, raw.REPLY, 0) + good + b"!",
        raw.HEADER.pack(*head, 96, raw.REPLY, 0) + struct.pack("=QQ", 8, 64) + bytes(64),
        raw.HEADER.pack(*head, 96, raw.REPLY, 0) + message.payload[:8] + struct.pack("=Q", 1 << 63) + bytes(64),
        raw.HEADER.pack(*head, 96, raw.REPLY, 0) + message.payload[:8] + struct.pack("=Q", 1) + bytes(64),
        raw.HEADER.pack(message.ident ^ 0x5555, message.command, 96, raw.REPLY, 0) + good,
        raw.HEADER.pack(*head, 16 + MIB, raw.REPLY, 0) + bytes(MIB),
        raw.HEADER.pack(*head, 96, raw.REPLY | raw.ERROR, 5) + good,
    ]


@pytest.mark.parametrize("which", range(10))
def test_dma_reply_that_is_wrong_is_an_error_and_not_a_crash(server: Server, which: int) -> None:
    """Specification, Security Considerations; the job ends with an error or the connection does."""
    with raw.Client(server.path) as client:
        client.reset()
        client.write(raw.CONFIG, 4, 7, 2)
        client.dma_map(0, 4096)
        client.write(raw.BAR0, 0x30, 64)
        client.write(raw.BAR0, 0x34, 2)
        message = client.receive_dma()
        send_what_it_takes(client, wrong_replies(message)[which])
        with contextlib.suppress(ConnectionError):
            eventually(lambda: client.read(raw.BAR0, 0x38) != 1, 0.2)
            assert client.read(raw.BAR0, 0x38) != 2, "the job is not done"


@pytest.mark.parametrize("count", [0, 1, 63, 65])
def test_dma_write_reply_that_admits_another_count_is_an_error(server: Server, count: int) -> None:
    """Specification, DMA_WRITE: count is the size of the data transferred; less than all is not done."""
    with raw.Client(server.path) as client:
        client.reset()
        client.write(raw.CONFIG, 4, 7, 2)
        client.dma_map(0, 4096)
        client.write(raw.BAR0, 0x30, 64)
        client.write(raw.BAR0, 0x34, 4)
        message = client.receive_dma()
        client.raw(raw.HEADER.pack(message.ident, raw.DMA_WRITE, 32, raw.REPLY, 0) + struct.pack("=QQ", 0, count))
        with contextlib.suppress(ConnectionError):
            eventually(lambda: client.read(raw.BAR0, 0x38) != 1, 0.2)
            assert client.read(raw.BAR0, 0x38) != 2


@pytest.mark.parametrize("size", [0, 12, 16])
def test_dma_write_reply_of_every_layout_in_use_is_taken(server: Server, size: int) -> None:
    """S0.14, field-notes C.8: a header (first QEMU, data at 28), 12 bytes (the table), 16 (QEMU 11.1)."""
    with raw.Client(server.path) as client:
        client.reset()
        client.write(raw.CONFIG, 4, 7, 2)
        client.dma_map(0, 4096)
        client.write(raw.BAR0, 4, 0x5A)
        client.write(raw.BAR0, 0x30, 64)
        client.write(raw.BAR0, 0x34, 4)
        for count in (0, 64):
            message = client.receive()
            assert message.command == raw.DMA_WRITE
            assert len(message.payload) == 16 + count
            payload = raw.DMA_ACCESS.pack(0, count)[:size]
            client.raw(raw.HEADER.pack(message.ident, raw.DMA_WRITE, 16 + size, raw.REPLY, 0) + payload)
        assert message.payload[16 if size else 12 :][:64] == b"\x5a" * 64
        assert eventually(lambda: client.read(raw.BAR0, 0x38) == 2)
