"""Messages at random: changed in a few fields, of random bodies, or no messages at all."""

import contextlib
import random
import socket
import struct

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server
from tests.interop.hostile.conftest import drained, send_what_it_takes


def valid(client: raw.Client, source: random.Random) -> bytes:
    """A command that a client could send."""
    payloads = {
        raw.DMA_MAP: struct.pack("=IIQQQ", 32, 3, 0, source.randrange(64) << 12, 4096),
        raw.DMA_UNMAP: struct.pack("=IIQQ", 24, 0, source.randrange(64) << 12, 4096),
        raw.GET_INFO: struct.pack("=4I", 16, 0, 0, 0),
        raw.GET_REGION_INFO: raw.REGION_INFO.pack(source.choice((32, 80)), 0, source.randrange(10), 0, 0, 0),
        raw.GET_REGION_IO_FDS: struct.pack("=4I", 16, 0, source.randrange(10), 0),
        raw.GET_IRQ_INFO: struct.pack("=4I", 16, 0, source.randrange(6), 0),
        raw.SET_IRQS: struct.pack("=5I", 20, source.choice((9, 17, 33, 36)), source.randrange(5), 0, 1),
        raw.REGION_READ: raw.ACCESS.pack(source.randrange(4096), source.randrange(10), source.randrange(64)),
        raw.REGION_WRITE: raw.ACCESS.pack(source.randrange(0x800), source.choice((1, 2, 4, 5, 7)), 4) + bytes(4),
        raw.RESET: b"",
        raw.REGION_WRITE_MULTI: struct.pack("=QQIIQ", 1, source.randrange(4096), source.randrange(10), 4, 0),
        raw.DEVICE_FEATURE: struct.pack("=II", 8, source.getrandbits(19)),
        raw.MIG_DATA_READ: struct.pack("=II", 4096, source.randrange(4096)),
        raw.MIG_DATA_WRITE: struct.pack("=II", 16, 8) + bytes(8),
    }
    command = source.choice(list(payloads))
    return client.message(command, payloads[command], source.choice((0, 0, 0, raw.NO_REPLY)))


def mutated(data: bytes, source: random.Random) -> bytes:
    """A message with some fields replaced; most keep a size that tells the truth."""
    changed = bytearray(data)
    for _ in range(source.choice((0, 1, 1, 2, 8))):
        width = source.choice((1, 4, 8))
        at = source.randrange(2, len(changed)) & -width
        values = (0, 1, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 64) - 1, source.getrandbits(64))
        changed[at : at + width] = (source.choice(values) & (1 << 8 * width) - 1).to_bytes(width, "little")
    if source.random() < 0.2:
        changed = changed[: source.randrange(16, len(changed) + 1)] + source.randbytes(source.randrange(9))
    if source.random() < 0.97:
        changed[4:8] = len(changed).to_bytes(4, "little")
    return bytes(changed)


@pytest.mark.parametrize("seed", range(10))
def test_mutated_messages_are_answered_or_close_the_connection(server: Server, memory: int, seed: int) -> None:
    """Issue 2: random messages, never a crash, a hang or a leaked fd; 400 for each seed."""
    source = random.Random(seed)
    sent = 0
    while sent < 400:
        with raw.Client(server.path, timeout=4) as client:
            client.write(raw.CONFIG, 4, 7, 2)
            for _ in range(50):
                fds = [memory] * source.choice((0, 0, 0, 1, 2))
                send_what_it_takes(client, mutated(valid(client, source), source), fds)
                sent += 1
            with contextlib.suppress(OSError):
                client.socket.shutdown(socket.SHUT_WR)
            drained(client, 4)


@pytest.mark.parametrize("seed", range(5))
def test_random_bytes_close_the_connection_or_wait(server: Server, seed: int) -> None:
    """Issue 2: random messages, before VERSION and after it; 40 connections for each seed."""
    source = random.Random(1000 + seed)
    for n in range(40):
        with raw.Client(server.path, raw.QEMU if n % 2 else None, timeout=4) as client:
            send_what_it_takes(client, source.randbytes(source.randrange(1, 3000)))
            with contextlib.suppress(OSError):
                client.socket.shutdown(socket.SHUT_WR)
            drained(client, 4)


@pytest.mark.parametrize("seed", range(3))
def test_random_bodies_under_true_headers_are_all_answered(server: Server, seed: int) -> None:
    """Issue 2: random payloads of every command; each has one reply."""
    source = random.Random(2000 + seed)
    with raw.Client(server.path, timeout=4) as client:
        for _ in range(500):
            command = source.choice([n for n in range(2, 20) if n not in (14, 13)])
            body = source.randbytes(source.choice((0, 4, 8, 16, 20, 24, 32, 40, source.randrange(200))))
            ident = client.send(command, body)
            reply = client.receive()
            assert (reply.ident, reply.command, reply.flags & 0xF) == (ident, command, raw.REPLY)
            assert not reply.flags & raw.ERROR or (reply.error and not reply.payload)
