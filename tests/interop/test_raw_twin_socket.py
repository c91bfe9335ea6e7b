"""The twin socket, by somebody else's client: which socket carries what, and that either one's end is both's."""

import errno
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Server, eventually
from tests.interop.dma.conftest import BUSY, COPY, DONE, FAILED, PATTERN, REMOTE, SIZE, STATUS, TO_BUFFER, start

PROPOSAL = b'{"capabilities": {"max_data_xfer_size": 1048576, "max_msg_fds": 8, "twin_socket": {"supported": true}}}\0'
DELAY, DELAYED = 0x44, 0x48


class TwinClient(raw.Client):
    """A client with two sockets; `other` is a client over the second one, which only answers."""

    def __init__(self, path: str) -> None:
        super().__init__(path, None)
        message = self.request(raw.VERSION, bytes(4) + PROPOSAL)
        self.capabilities = json.loads(message.payload[4:-1])["capabilities"]
        fd = message.fds[self.capabilities["twin_socket"]["fd_index"]]
        self.other = raw.Client.__new__(raw.Client)
        self.other.__dict__.update(self.__dict__, socket=socket.socket(fileno=self.take(fd)))
        self.other.socket.settimeout(8)

    def serve(self) -> raw.Message:
        """Answers one message on the second socket."""
        message = self.other.receive()
        self.other.answer(message)
        return message

    def close(self) -> None:
        super().close()
        self.other.socket.close()


@pytest.fixture
def client(server: Server) -> Iterator[TwinClient]:
    """A reset testdev that masters the bus, and the pattern at REMOTE, which only messages reach."""
    with TwinClient(server.path) as connection:
        connection.reset()
        connection.write(raw.CONFIG, 4, 7, 2)
        connection.memory[REMOTE] = bytearray(PATTERN)
        connection.dma_map(REMOTE, SIZE)
        yield connection


def served(client: TwinClient) -> int:
    """Answers DMA messages until the engine has come to an end; its status. The main socket carries no message."""
    while True:
        while not client.other.quiet():
            client.serve()
        client.raw(client.message(raw.REGION_READ, raw.ACCESS.pack(STATUS, 0, 4)))
        message = client.receive()
        assert message.flags == raw.REPLY
        (status,) = struct.unpack_from("=I", message.payload, raw.ACCESS.size)
        if status != BUSY:
            return int(status)


def test_version_reply_names_the_descriptor(client: TwinClient) -> None:
    """The specification, VERSION."""
    assert client.capabilities["twin_socket"] == {"supported": True, "fd_index": 0}
    assert client.other.socket.family == socket.AF_UNIX
    assert client.other.socket.type == socket.SOCK_STREAM


def test_dma_goes_over_the_second_socket_alone(client: TwinClient) -> None:
    """The specification, DMA_READ and DMA_WRITE: every byte, the first message's question for the layout included."""
    start(client, COPY, REMOTE, REMOTE + SIZE // 2, SIZE // 2)
    assert served(client) == DONE
    assert client.memory[REMOTE] == PATTERN[: SIZE // 2] * 2
    assert {command for command, _, _ in client.served} == {raw.DMA_READ, raw.DMA_WRITE}


def test_error_reply_on_the_second_socket_is_eio(client: TwinClient) -> None:
    client.other.dma_error = errno.EPERM
    start(client, TO_BUFFER, REMOTE, 0, 16)
    assert served(client) == FAILED | errno.EIO


def test_dma_goes_on_while_a_command_is_unanswered(client: TwinClient) -> None:
    """Neither socket waits for the other: both messages of the engine are served before the slow read is answered."""
    client.write(raw.BAR0, DELAY, 1_000_000)
    start(client, TO_BUFFER, REMOTE, 0, 16)
    slow = client.send(raw.REGION_READ, raw.ACCESS.pack(DELAYED, 0, 4))
    while client.serve().command != raw.DMA_READ:
        pass
    assert client.quiet()
    client.reply(slow)
    assert client.read(raw.BAR0, STATUS) == DONE


def test_reply_on_the_wrong_socket_is_eio_and_the_connection_lives(server: Server, client: TwinClient) -> None:
    start(client, TO_BUFFER, REMOTE, 0, 16)
    while (message := client.other.receive()).command != raw.DMA_READ:
        client.other.answer(message)
    client.answer(message)
    assert served(client) == FAILED | errno.EIO
    assert "came on the main socket, must come on the twin socket" in server.log()
    start(client, TO_BUFFER, REMOTE, 0, 16)
    assert served(client) == DONE


@pytest.mark.parametrize("command", [raw.GET_INFO, raw.DMA_MAP, raw.REGION_READ, raw.REGION_WRITE, raw.RESET, 999])
def test_command_on_the_second_socket_is_einval(server: Server, client: TwinClient, command: int) -> None:
    """It is not done, and its descriptors are closed."""
    before = server.descriptors()
    client.write(raw.BAR0, 4, 0x1234)
    ident = client.other.send(command, raw.ACCESS.pack(4, 0, 4) + bytes(16), [client.socket.fileno()])
    reply = client.other.receive()
    assert (reply.ident, reply.flags, reply.error) == (ident, raw.REPLY | raw.ERROR, errno.EINVAL)
    client.other.send(command, raw.ACCESS.pack(4, 0, 4) + bytes(16), flags=raw.NO_REPLY)
    assert client.read(raw.BAR0, 4) == 0x1234
    assert client.other.quiet()
    assert server.descriptors() == before


@pytest.mark.parametrize("garbage", [bytes(16), b"\xff" * 64, raw.HEADER.pack(1, 11, 1 << 31, raw.REPLY, 0)])
def test_garbage_on_the_second_socket_closes_both(own_server: Server, garbage: bytes) -> None:
    with TwinClient(own_server.path) as client:
        client.other.raw(garbage)
        assert client.closed()
        assert client.other.closed()
    assert eventually(own_server.at_rest)
    assert "connection closed" in own_server.log()


@pytest.mark.parametrize("first", ["main", "twin"])
def test_either_end_is_the_end_of_both(own_server: Server, first: str) -> None:
    """With DMA under way; every descriptor is given back."""
    for _ in range(20):
        with TwinClient(own_server.path) as client:
            client.write(raw.CONFIG, 4, 7, 2)
            client.dma_map(REMOTE, SIZE)
            start(client, TO_BUFFER, REMOTE, 0, 16)
            ends = [client.socket, client.other.socket]
            ends.pop(first == "twin").close()
            assert not ends[0].recv(1 << 16) or not ends[0].recv(1 << 16)
        assert eventually(own_server.at_rest)


def test_posted_writes_before_the_second_socket_closed_are_served(own_server: Server) -> None:
    with TwinClient(own_server.path) as client:
        client.write(raw.CONFIG, 4, 7, 2)
        writes = b"".join(
            client.message(raw.REGION_WRITE, raw.ACCESS.pack(4, 0, 4) + struct.pack("=I", i), raw.NO_REPLY)
            for i in range(3000)
        )
        client.raw(writes)
        client.other.socket.close()
        assert client.closed()
    with raw.Client(own_server.path) as again:
        assert again.read(raw.BAR0, 4) == 2999


def test_two_clients_with_twin_sockets_do_not_meet(server: Server, client: TwinClient) -> None:
    with TwinClient(server.paths[1]) as second:
        second.other.raw(bytes(16))
        assert second.closed()
    start(client, TO_BUFFER, REMOTE, 0, 16)
    assert served(client) == DONE


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("wanted", [True, False])
def test_configuration_may_switch_it_off(tmp_path: Path, loop: str, wanted: bool) -> None:
    path, config = str(tmp_path / "socket"), tmp_path / "devices.toml"
    config.write_text(
        f'loop = "{loop}"\ntwin_socket = {str(wanted).lower()}\n[[device]]\ndevice = "testdev"\nsocket = "{path}"\n'
    )
    with (
        (tmp_path / "log").open("wb") as log,
        Server(tmp_path, log, ["--config", str(config)], [path]),
        raw.Client(path, None) as client,
    ):
        message = client.request(raw.VERSION, bytes(4) + PROPOSAL)
        assert len(message.fds) == wanted
        assert ("twin_socket" in json.loads(message.payload[4:-1])["capabilities"]) == wanted
