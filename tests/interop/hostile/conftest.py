"""What every test with a hostile client ends with: the server is unharmed, and nothing is left of the client."""

import contextlib
from collections.abc import Iterator

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
