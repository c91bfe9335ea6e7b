"""Clients that lie, flood, stall and vanish. The server answers or closes; it never dies, hangs or leaks."""

import contextlib
import errno
import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server, eventually

MIB = 1 << 20
TESTDEV = 0x54534554


@pytest.fixture(autouse=True)
def unharmed(server: Server) -> Iterator[None]:
    """After every test: the process lives, both devices are served at once, and no descriptor is left."""
    yield
    assert server.process.poll() is None, server.log()
    for path in server.paths:
        with raw.Client(path, timeout=3) as client:
            client.reset()
            client.write(raw.CONFIG, 4, 7, 2)
            assert client.read(raw.BAR0, 0) == TESTDEV
    assert eventually(server.at_rest), f"{server.descriptors()} descriptors, {server.idle} at rest"
    assert "memfd:guest" not in server.mappings()


def drained(client: raw.Client, seconds: float = 3.0) -> bytes:
    """Everything until the server closes, which it must do before a silence of `seconds`."""
    client.socket.settimeout(seconds)
    data = bytearray()
    with contextlib.suppress(ConnectionError):
        while piece := client.socket.recv(1 << 16):
            data += piece
    return bytes(data)


def send_what_it_takes(client: raw.Client, data: bytes, fds: list[int] | None = None) -> None:
    """Send; the server may close in the middle of it."""
    with contextlib.suppress(ConnectionError):
        client.raw(data, fds or [])


# Pipelining


def mixed(client: raw.Client, count: int) -> list[bytes]:
    """Valid and refused commands of all kinds, each with an ID of its own and a reply."""
    kinds: list[Callable[[int], bytes]] = [
        lambda n: client.message(raw.REGION_WRITE, raw.ACCESS.pack(4, raw.BAR0, 4) + n.to_bytes(4, "little")),
        lambda n: client.message(raw.REGION_READ, raw.ACCESS.pack(4, raw.BAR0, 4)),
        lambda n: client.message(raw.REGION_WRITE, raw.ACCESS.pack(n % 256, raw.BAR1, 4) + n.to_bytes(4, "little")),
        lambda n: client.message(raw.REGION_READ, raw.ACCESS.pack(n % 256, raw.BAR1, 8)),
        lambda n: client.message(raw.REGION_READ, raw.ACCESS.pack(4096, raw.BAR1, 8)),
        lambda n: client.message(raw.GET_REGION_INFO, raw.REGION_INFO.pack(32, 0, n % 11, 0, 0, 0)),
        lambda n: client.message(99, bytes(n % 64)),
        lambda n: client.message(raw.REGION_READ, raw.ACCESS.pack(0, raw.CONFIG, 4096)),
        lambda n: client.message(raw.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, (n + 1) << 12, 4096)),
        lambda n: client.message(raw.DMA_UNMAP, struct.pack("=IIQQ", 24, 0, (n // 2) << 12, 4096)),
        lambda n: client.message(raw.SET_IRQS, struct.pack("=5I", 20, 0x21, raw.MSIX, n % 16, 1)),
    ]
    return [kinds[n % len(kinds)](n) for n in range(count)]


def session(path: str, chunks: Callable[[bytes], Iterator[bytes]], count: int) -> list[raw.Message]:
    """Replies to the mixed commands, sent in these chunks, from a device in its reset state."""
    with raw.Client(path) as client:
        client.reset()
        client.write(raw.CONFIG, 4, 7, 2)
        for chunk in chunks(b"".join(mixed(client, count))):
            client.raw(chunk)
        return [client.receive()._replace(fds=[]) for _ in range(count)]


def whole(data: bytes) -> Iterator[bytes]:
    """In one write."""
    yield data


def bytewise(data: bytes) -> Iterator[bytes]:
    """One byte at a time."""
    for at in range(len(data)):
        yield data[at : at + 1]


def test_1000_messages_in_one_write_are_answered_in_order(server: Server) -> None:
    """Issue 2: 1000 pipelined messages in one write are answered in order."""
    replies = session(server.path, whole, 1000)
    first = replies[0].ident
    assert [reply.ident for reply in replies] == list(range(first, first + 1000))
    values = [int.from_bytes(reply.payload[16:20], "little") for reply in replies[1::11]]
    assert values == list(range(0, 1000, 11))[: len(values)]
    assert {reply.error for reply in replies[4::11]} == {errno.EINVAL}
    assert {reply.error for reply in replies[6::11]} == {errno.ENOTSUP}


@pytest.mark.parametrize("batch", [1, 64, 1000])
def test_1000_maps_and_unmaps_with_one_failure_err_once(server: Server, batch: int) -> None:
    """S1.11: replies in order of arrival, each command its own; the map in the middle overlaps and errs alone."""
    with raw.Client(server.path) as client:
        messages = [client.message(raw.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, n << 12, 4096)) for n in range(750)]
        messages[500] = client.message(raw.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, 499 << 12, 8192))
        messages += [client.message(raw.DMA_UNMAP, struct.pack("=IIQQ", 24, 0, n << 12, 4096)) for n in range(250)]
        sent = [raw.HEADER.unpack_from(message)[0] for message in messages]
        for start in range(0, 1000, batch):
            client.raw(b"".join(messages[start : start + batch]))
        replies = [client.receive() for _ in messages]
        assert [reply.ident for reply in replies] == sent
        assert {n: reply.error for n, reply in enumerate(replies) if reply.error} == {500: errno.EEXIST}
        assert [reply.flags & raw.ERROR for reply in replies].count(raw.ERROR) == 1
        client.dma_map(500 << 12, 4096)  # its place has stayed free


def test_one_byte_at_a_time_gives_the_same_replies(server: Server) -> None:
    """Issue 2: a message fed one byte at a time gives the same replies."""
    assert session(server.path, bytewise, 110) == session(server.path, whole, 110)


@pytest.mark.parametrize("size", [7, 16, 17, 33, 4096])
def test_chunks_of_any_size_give_the_same_replies(server: Server, size: int) -> None:
    """Issue 2: where a read ends has no meaning."""

    def chunks(data: bytes) -> Iterator[bytes]:
        return (data[at : at + size] for at in range(0, len(data), size))

    assert session(server.path, chunks, 330) == session(server.path, whole, 330)


# Sizes


@pytest.mark.parametrize("size", [0, 1, 15, 0x80000000, 0xFFFFFFFF])
def test_message_with_an_impossible_size_closes_the_connection(server: Server, size: int) -> None:
    """Issue 2: short and oversized messages; a stream with such a size cannot be followed."""
    for proposal in (None, raw.QEMU):
        with raw.Client(server.path, proposal) as client:
            send_what_it_takes(client, client.message(raw.VERSION, bytes(64), size=size))
            assert client.closed()


@pytest.mark.parametrize("size", [8 * MIB, 64 * MIB, 1 << 30])
@pytest.mark.parametrize("command", [raw.REGION_WRITE, raw.VERSION, raw.REGION_WRITE_MULTI, 99])
def test_message_that_is_oversized_closes_before_it_is_buffered(server: Server, size: int, command: int) -> None:
    """Issue 2: an oversized message closes the connection before it is buffered."""
    before = server.resident()
    with raw.Client(server.path, timeout=3) as client:
        send_what_it_takes(client, client.message(command, bytes(64), size=size))
        peak, sent = before, 0
        with contextlib.suppress(ConnectionError):
            while sent < min(size, 32 * MIB):
                sent += client.socket.send(bytes(64 << 10))
                peak = max(peak, server.resident())
        assert client.closed()
    assert sent < 4 * MIB
    assert peak < before + 3 * MIB


def test_message_of_the_greatest_size_is_taken(server: Server) -> None:
    """Specification, max_data_xfer_size: 1 MiB of data and its headers are not oversized."""
    with raw.Client(server.path) as client:
        client.write(raw.CONFIG, 4, 7, 2)
        data = random.Random(1).randbytes(MIB)
        client.write_bytes(raw.BAR2, 0, data)
        assert client.read_bytes(raw.BAR2, 0, MIB) == data


def test_version_of_a_megabyte_does_not_hurt(server: Server) -> None:
    """Issue 2: a first message of the greatest size, with a JSON that is all one string."""
    with raw.Client(server.path, None) as client:
        send_what_it_takes(client, client.message(raw.VERSION, bytes(4) + b'{"x":"' + b"a" * 900_000 + b'"}\0'))
        assert raw.HEADER.unpack_from(client._exactly(16)[0])[1] == raw.VERSION


# Types and flags


@pytest.mark.parametrize("kind", [*range(2, 16)])
def test_message_of_an_unknown_type_is_refused(server: Server, kind: int) -> None:
    """Issue 2: wrong-type messages give an error reply or a closed connection."""
    with raw.Client(server.path) as client:
        send_what_it_takes(client, client.message(raw.GET_INFO, struct.pack("=4I", 16, 0, 0, 0), flags=kind))
        with contextlib.suppress(ConnectionError):
            assert client.receive().flags & raw.ERROR


@pytest.mark.parametrize("command", [raw.DMA_READ, raw.DMA_WRITE, raw.GET_INFO, 0, 99])
@pytest.mark.parametrize("flags", [raw.REPLY, raw.REPLY | raw.ERROR])
def test_reply_that_nobody_waits_for_is_ignored_or_closes(server: Server, command: int, flags: int) -> None:
    """Field-notes C.4: QEMU treats an unexpected reply likewise."""
    with raw.Client(server.path) as client:
        for _ in range(50):
            send_what_it_takes(client, client.message(command, bytes(16), flags=flags))
        with contextlib.suppress(ConnectionError):
            assert client.info()[0] == 16


def test_header_flags_that_are_undefined_do_no_harm(server: Server) -> None:
    """S3.17 leaves header flags open: an error, the usual reply, or the end."""
    for bit in range(5, 32):
        with raw.Client(server.path) as client:
            client.send(raw.GET_INFO, struct.pack("=4I", 16, 0, 0, 0), flags=1 << bit)
            with contextlib.suppress(ConnectionError):
                assert client.receive().flags & raw.TYPE == raw.REPLY


# Replies to DMA messages


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


# Random


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


# Descriptors


@pytest.mark.parametrize("command", [*range(1, 20), 99])
@pytest.mark.parametrize("count", [1, 2, 16])
def test_descriptors_with_every_command_are_closed(server: Server, memory: int, command: int, count: int) -> None:
    """Issue 2: no leaked fd, whatever the command; the rest position is looked at while connected, too."""
    with raw.Client(server.path, timeout=3) as client:
        client.info()
        before = server.descriptors()
        payload = struct.pack("=IIQQQ", 32, 0, 0, 0, 0)
        for _ in range(3):
            send_what_it_takes(client, client.message(command, payload), [memory] * count)
        with contextlib.suppress(ConnectionError):
            for _ in range(3):
                client.receive()
            assert eventually(lambda: server.descriptors() == before)


def test_descriptors_with_posted_messages_are_closed(server: Server, memory: int) -> None:
    """Issue 2: the same with No_reply."""
    with raw.Client(server.path) as client:
        client.info()
        before = server.descriptors()
        for command in (*range(2, 11), 13, 15, 16, 99):
            client.raw(client.message(command, bytes(32), raw.NO_REPLY), [memory])
        with contextlib.suppress(ConnectionError):
            client.info()
            assert eventually(lambda: server.descriptors() == before)


@pytest.mark.parametrize("command", [raw.SET_IRQS, raw.DMA_MAP, raw.REGION_READ])
def test_253_descriptors_at_once_are_closed(server: Server, memory: int, command: int) -> None:
    """Issue 2: the kernel lets 253 through, max_msg_fds is 16: an error reply or the end, and nothing leaks."""
    payload = struct.pack("=5I", 20, raw.DATA_EVENTFD | raw.TRIGGER, raw.MSIX, 0, 8) + bytes(12)
    with raw.Client(server.path, timeout=3) as client:
        send_what_it_takes(client, client.message(command, payload), [memory] * 253)
        with contextlib.suppress(ConnectionError):
            assert client.receive().flags & raw.ERROR
        assert eventually(lambda: server.descriptors() <= server.idle + 1)


def test_descriptors_with_partial_messages_belong_to_them_or_are_closed(server: Server, memory: int) -> None:
    """Issue 2: fds with partial messages; a client that leaves in the middle leaves none behind."""
    payload = struct.pack("=IIQQQ", 32, 3, 0, 0, 4096)
    for cut in (1, 8, 15, 16, 17, 47):
        with raw.Client(server.path, timeout=3) as client:
            message = client.message(raw.DMA_MAP, payload)
            client.raw(message[:cut], [memory])
            client.raw(message[cut:])
            assert client.receive().flags == raw.REPLY
            assert eventually(lambda: "memfd:guest" in server.mappings())
            client.raw(client.message(raw.DMA_MAP, payload)[:cut], [memory])
        assert eventually(server.at_rest)


def test_descriptors_on_every_byte_of_a_message_do_not_pile_up(server: Server, memory: int) -> None:
    """Specification, max_msg_fds: more descriptors than 16 with one message are too many, sent apart or not."""
    with raw.Client(server.path, timeout=3) as client:
        message = client.message(raw.GET_INFO, struct.pack("=4I", 16, 0, 0, 0) + bytes(4096))
        for at in range(400):
            send_what_it_takes(client, message[at : at + 1], [memory] * 10)
        time.sleep(0.05)
        assert server.descriptors() <= server.idle + 1 + 40


def test_descriptors_for_the_next_message_stay_with_it(server: Server, memory: int) -> None:
    """Field-notes G: maps with and without a descriptor, unwaited; memory without one is asked for by messages."""
    with raw.Client(server.path, timeout=3) as client:
        client.write(raw.CONFIG, 4, 7, 2)
        client.memory[0] = bytearray(60 << 12)
        idents = []
        for n in range(60):
            payload = struct.pack("=IIQQQ", 32, 3, n << 12, n << 12, 4096)
            idents.append(client.send(raw.DMA_MAP, payload, [memory] if n % 3 == 1 else []))
        assert [client.receive()[:4] for _ in idents] == [(ident, raw.DMA_MAP, raw.REPLY, 0) for ident in idents]
        for n in range(60):
            client.write(raw.BAR0, 4, n + 1)
            client.write(raw.BAR0, 0x28, n << 12, 8)
            client.write(raw.BAR0, 0x30, 1)
            client.write(raw.BAR0, 0x34, 4)
            assert eventually(lambda: client.read(raw.BAR0, 0x38) == 2)
        assert [at >> 12 for _, at, _ in client.served] == [n for n in range(60) if n % 3 != 1]
        assert os.pread(memory, 60 << 12, 0)[:: 1 << 12] == bytes((n + 1) * (n % 3 == 1) for n in range(60))


@pytest.mark.parametrize("flags", [raw.REPLY, raw.REPLY | raw.ERROR, 2, 15])
def test_descriptors_with_what_is_no_command_are_closed(server: Server, memory: int, flags: int) -> None:
    """Issue 2: a reply or a message of an unknown type owns its descriptors, too."""
    with raw.Client(server.path, timeout=3) as client:
        for _ in range(5):
            send_what_it_takes(client, client.message(raw.DMA_READ, bytes(16), flags=flags), [memory] * 3)
        with contextlib.suppress(ConnectionError):
            client.info()
        assert eventually(lambda: server.descriptors() <= server.idle + 1)


# Readers that do not read, clients that vanish


def flood(client: raw.Client, data: bytes, seconds: float) -> int:
    """Send without reading until nothing more goes for a tenth of a second, or `seconds` have passed."""
    client.socket.setblocking(False)
    sent, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        if not select.select([], [client.socket], [], 0.1)[1]:
            break
        with contextlib.suppress(BlockingIOError):
            sent += client.socket.send(data[sent % len(data) :])
    return sent


def test_reader_that_stops_reading_leaves_memory_bounded(server: Server) -> None:
    """Issue 2: the send queue is bounded; while it is full the connection is not read, and others are served."""
    before = server.resident()
    with raw.Client(server.path, timeout=5) as client, raw.Client(server.paths[1], timeout=2) as other:
        client.write(raw.CONFIG, 4, 7, 2)
        reads = b"".join(client.message(raw.REGION_READ, raw.ACCESS.pack(0, raw.BAR2, 65536)) for _ in range(1000))
        sent = flood(client, reads, 2)
        assert sent < 4 * MIB, "the server goes on reading"
        assert server.resident() < before + 24 * MIB
        for _ in range(100):
            assert len(other.read_bytes(raw.CONFIG, 0, 4096)) == 4096
        client.socket.setblocking(True)
        client.socket.settimeout(5)
        for _ in range(sent // 32):
            assert len(client.receive().payload) == 65552


def test_reader_that_stops_reading_and_vanishes_leaves_nothing(server: Server) -> None:
    """Issue 2: memory bounded, nothing leaked; ten times, so that a leak adds up."""
    peaks = []
    for _ in range(10):
        with raw.Client(server.path, timeout=5) as client:
            client.write(raw.CONFIG, 4, 7, 2)
            message = client.message(raw.REGION_READ, raw.ACCESS.pack(0, raw.BAR2, MIB))
            flood(client, message * 100, 1)
            peaks.append(server.resident())
    assert peaks[-1] < peaks[2] + 4 * MIB


def test_replies_that_are_small_and_unread_leave_memory_bounded(server: Server) -> None:
    """Issue 2: a bound in bytes alone would not hold for error replies."""
    before = server.resident()
    with raw.Client(server.path, timeout=5) as client:
        sent = flood(client, client.message(99) * 4096, 3)
        assert sent < 16 * MIB
        assert server.resident() < before + 24 * MIB


def middles(client: raw.Client, memory: int) -> list[Callable[[], object]]:
    """Things to be in the middle of."""
    read = raw.ACCESS.pack(0x48, raw.BAR0, 4)

    def job() -> None:
        client.dma_map(0, 4096)
        client.write(raw.BAR0, 0x30, 64)
        client.write(raw.BAR0, 0x34, 1)

    def slow() -> None:
        client.write(raw.BAR0, 0x44, 20_000)
        for _ in range(3):
            client.send(raw.REGION_READ, read)

    return [
        lambda: None,
        lambda: client.raw(client.message(raw.REGION_READ, read)[:9]),
        lambda: client.raw(
            client.message(raw.REGION_WRITE, raw.ACCESS.pack(0, raw.BAR2, 65536) + bytes(65536))[:30000]
        ),
        lambda: client.raw(client.message(raw.DMA_MAP, struct.pack("=IIQQQ", 32, 3, 0, 0, 4096)), [memory]),
        lambda: client.raw(client.message(raw.DMA_MAP, bytes(32))[:20], [memory] * 4),
        lambda: [client.send(raw.REGION_READ, raw.ACCESS.pack(0, raw.BAR2, 65536)) for _ in range(50)],
        lambda: [client.send(raw.RESET) for _ in range(20)],
        job,
        slow,
    ]


@pytest.mark.parametrize("which", range(9))
@pytest.mark.parametrize("gentle", [True, False])
def test_client_that_vanishes_in_the_middle_leaves_a_working_server(
    server: Server, memory: int, which: int, gentle: bool
) -> None:
    """Issue 2, specification, Client Disconnection: five times each, by close and by shutdown first."""
    for _ in range(5):
        with raw.Client(server.path, timeout=3) as client:
            client.write(raw.CONFIG, 4, 7, 2)
            middles(client, memory)[which]()
            if gentle:
                client.socket.shutdown(socket.SHUT_WR)
                drained(client)


def test_connection_that_says_nothing_does_not_stop_others(server: Server) -> None:
    """Issue 2: other devices in the process are served while one connection is silent before VERSION."""
    with raw.Client(server.path, None), raw.Client(server.paths[1], timeout=2) as other:
        assert other.info()[0] == 16


def test_connections_in_a_flood_while_one_is_served_are_refused_without_leak(server: Server) -> None:
    """Issue 2: a second client on a busy socket is refused; 100 of them cost nothing."""
    with raw.Client(server.path, timeout=3) as client:
        for _ in range(100):
            with raw.Client(server.path, None, timeout=3) as second:
                assert second.closed()
        assert client.info()[0] == 16
        assert eventually(lambda: server.descriptors() == server.idle + 1)


def test_dma_maps_by_the_thousand_leave_nothing(server: Server, memory: int) -> None:
    """S1.10, S1.14: 2000 maps with descriptors, all dropped by one message."""
    with raw.Client(server.path) as client:
        for n in range(2000):
            client.dma_map(n << 12, 4096, memory)
        assert len(client.dma_unmap(0, 0, 2)) == 24
        assert "memfd:guest" not in server.mappings()
