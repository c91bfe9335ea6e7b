"""Streams that are cut anywhere, sizes that lie, types and flags that mean nothing."""

import contextlib
import errno
import random
import struct
from collections.abc import Callable, Iterator

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server
from tests.interop.hostile.conftest import MIB, send_what_it_takes


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
