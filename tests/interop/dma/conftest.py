"""testdev's DMA engine as its registers show it, and guest memory of both kinds."""

import os

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import eventually

SOURCE, DESTINATION, LENGTH, COMMAND, STATUS = 0x20, 0x28, 0x30, 0x34, 0x38
IDLE, BUSY, DONE, FAILED = 0, 1, 2, 0x80000000
COPY, TO_BUFFER, FROM_BUFFER, FILL, SIGNAL = 1, 2, 3, 4, 0x100
MAPPED, REMOTE, SIZE = 0x100000, 0x40000000, 1 << 20
HIGH = (1 << 64) - 0x1000
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
