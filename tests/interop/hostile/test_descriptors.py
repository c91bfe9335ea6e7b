"""Descriptors where none belong, too many of them, and with messages that never end."""

import contextlib
import os
import struct
import time

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server, eventually
from tests.interop.hostile.conftest import send_what_it_takes


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
