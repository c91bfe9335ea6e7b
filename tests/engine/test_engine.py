"""The engine on real sockets, on both loops: who is served, who is refused, and what is left behind."""

import asyncio
import logging
import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.engine.conftest import Serve, raw
from tests.native.messages import NO_REPLY, message, read, replies, write
from vfuserver.client.client import Client
from vfuserver.client.errors import DisconnectedError
from vfuserver.device.loader import load
from vfuserver.engine import Server, adopt, listen
from vfuserver.engine.listen import Listener
from vfuserver.errors import UsageError
from vfuserver.session import SessionOptions

VERSION = message(1, b"\0\0\0\0")
ENABLE = write(4, b"\x07\0", region=7, flags=NO_REPLY)


async def test_client_is_served_and_state_outlives_it(serve: Serve) -> None:
    path = serve("testdev")
    async with await Client.connect(path) as first:
        await first.enable()
        await first.region_write(0, 4, b"kept")
    async with await Client.connect(path) as second:
        assert await second.region_read(0, 4, 4) == b"kept"


async def test_second_client_is_refused_with_a_reason(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    path = serve("testdev")
    async with await Client.connect(path) as first:
        with pytest.raises(DisconnectedError):
            await Client.connect(path)
        assert (await first.device_info()).num_regions == 9
    assert "a second client is refused" in caplog.text


async def test_every_immediate_reconnect_is_served(serve: Serve) -> None:
    """300 reconnects: none refused."""
    path = serve("pvpanic")
    for _ in range(300):
        async with await Client.connect(path) as client:
            await client.enable()
            assert await client.region_read(0, 0, 1) == b"\7"


async def test_posted_writes_of_a_client_that_left_at_once_are_served_before_the_newcomer(serve: Serve) -> None:
    path = serve("testdev")
    for count in range(1, 20):
        leaver = raw(path)
        leaver.sendall(VERSION + ENABLE + write(0x400, b"\0\0\0\0", region=1, flags=NO_REPLY) * 100)
        leaver.close()
        async with await Client.connect(path) as client:
            assert int.from_bytes(await client.region_read(1, 0x400, 4), "little") == 100 * count


async def test_commands_after_an_asynchronous_one_are_served_although_the_client_left(serve: Serve) -> None:
    path = serve("testdev")
    leaver = raw(path)
    delayed = write(0x44, (50_000).to_bytes(4, "little"), flags=NO_REPLY) + write(0x48, b"late", flags=NO_REPLY)
    leaver.sendall(VERSION + ENABLE + delayed + write(4, b"last", flags=NO_REPLY))
    leaver.close()
    await asyncio.sleep(0.15)
    async with await Client.connect(path) as client:
        assert await client.region_read(0, 4, 4) == b"last"


async def test_client_that_only_reads_on_gets_every_reply(serve: Serve) -> None:
    """Half-closed: it sends no more, and what it has asked for still comes, however slowly it reads."""
    path, count, size = serve("testdev"), 300, 16384
    loop, sock = asyncio.get_running_loop(), raw(path)
    sock.setblocking(False)
    await loop.sock_sendall(sock, VERSION + ENABLE + b"".join(read(0, size, 2, tag=i) for i in range(count)))
    sock.shutdown(socket.SHUT_WR)
    got = b""
    while chunk := await loop.sock_recv(sock, 100_000):
        got += chunk
    sock.close()
    assert [answer[0] for answer in replies(got)[1:]] == list(range(count))


async def test_asynchronous_register_does_not_delay_another_device(serve: Serve) -> None:
    slow, other = serve("testdev"), serve("testdev")
    async with await Client.connect(slow) as first, await Client.connect(other) as second:
        await first.enable()
        await second.enable()
        await first.region_write(0, 0x44, (300_000).to_bytes(4, "little"))
        waiting = asyncio.ensure_future(first.region_read(0, 0x48, 4))
        for _ in range(20):
            await second.region_read(0, 0, 4)
        assert not waiting.done()
        await waiting


async def test_answer_that_does_not_come_is_a_timeout_and_the_connection_lives(folder: Path) -> None:
    async with Server(SessionOptions(deadline=0.1)) as server:
        server.add(load("testdev")(), listen(folder / "s"))
        async with await Client.connect(folder / "s") as client:
            await client.enable()
            await client.region_write(0, 0x44, (2_000_000).to_bytes(4, "little"))
            with pytest.raises(Exception, match="ETIMEDOUT"):
                await client.region_read(0, 0x48, 4)
            assert await client.region_read(0, 0, 4) == b"TEST"


async def test_thousand_pipelined_messages_in_one_write_come_back_in_order(serve: Serve) -> None:
    path = serve("testdev")
    loop, sock = asyncio.get_running_loop(), raw(path)
    sock.setblocking(False)
    await loop.sock_sendall(sock, VERSION + ENABLE + b"".join(read(0, 4, tag=i) for i in range(1000)))
    got = b""
    while len(got) < 20 + 1000 * 36:
        got += await loop.sock_recv(sock, 1 << 20)
    sock.close()
    answers = replies(got)[1:]
    assert [answer[0] for answer in answers] == list(range(1000))
    assert all(answer[4][16:] == b"TEST" for answer in answers)


async def test_client_that_does_not_read_leaves_the_server_bounded_and_others_served(serve: Serve) -> None:
    path, other = serve("testdev"), serve("testdev")
    flood = raw(path)
    flood.setblocking(False)
    flood.send(VERSION + ENABLE)
    before = _resident()
    sent = 0
    for _ in range(400):
        try:
            sent += flood.send(b"".join(read(0, 65536, region=2, tag=i) for i in range(100)))
        except BlockingIOError:
            await asyncio.sleep(0.001)
    async with await Client.connect(other) as client:
        assert (await client.device_info()).num_regions == 9
    assert _resident() - before < 32 << 20
    flood.close()
    assert sent > 100_000


async def test_broken_stream_is_closed_and_the_next_client_served(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    path = serve("testdev")
    broken = raw(path)
    broken.sendall(VERSION + message(10, size=1 << 30))
    broken.settimeout(2)
    loop = asyncio.get_running_loop()
    assert await loop.run_in_executor(None, _read_to_end, broken)
    broken.close()
    assert "message size" in caplog.text
    async with await Client.connect(path) as client:
        assert (await client.device_info()).num_irqs == 5


def _read_to_end(sock: socket.socket) -> bool:
    while sock.recv(4096):
        pass
    return True


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class TestListening:
    def test_socket_is_private_and_removed_by_its_maker(self, folder: Path) -> None:
        listener = listen(folder / "s")
        assert stat.S_IMODE(os.stat(folder / "s").st_mode) == 0o600
        listener.close()
        assert os.listdir(folder) == []

    def test_wider_mode_is_given_in_spite_of_the_umask(self, folder: Path) -> None:
        listener = listen(folder / "s", 0o666)
        assert stat.S_IMODE(os.stat(folder / "s").st_mode) == 0o666
        listener.close()

    def test_stale_socket_is_replaced_and_a_live_one_never_stolen(self, folder: Path) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(os.fspath(folder / "s"))
        live = listen(folder / "s")
        with pytest.raises(UsageError, match="a live server listens"):
            listen(folder / "s")
        live.close()

    def test_file_of_another_kind_is_left_alone(self, folder: Path) -> None:
        (folder / "s").write_text("precious")
        with pytest.raises(UsageError, match="is not a socket"):
            listen(folder / "s")
        assert (folder / "s").read_text() == "precious"

    @pytest.mark.parametrize("name", ["x" * 120, "missing/s"])
    def test_impossible_path_is_a_usage_error(self, folder: Path, name: str) -> None:
        with pytest.raises(UsageError):
            listen(folder / name)

    def test_file_that_somebody_else_made_meanwhile_is_not_removed(self, folder: Path) -> None:
        listener = listen(folder / "s")
        os.unlink(folder / "s")
        (folder / "s").write_text("another's")
        listener.close()
        assert (folder / "s").read_text() == "another's"

    def test_adopted_descriptor_must_be_a_unix_stream_socket(self) -> None:
        memfd = os.memfd_create("x")
        with pytest.raises(UsageError, match="open socket"):
            adopt(memfd)
        os.close(memfd)
        with socket.socket(socket.AF_INET) as inet, pytest.raises(UsageError, match="UNIX stream"):
            adopt(inet.fileno())


async def test_inherited_connection_is_served_and_its_end_ends_the_server() -> None:
    near, far = socket.socketpair()
    async with Server() as server:
        server.add(load("pvpanic")(), Listener(adopt(near.detach())))
        far.setblocking(False)
        client = Client(far)
        await client.negotiate()
        client.close()
        await asyncio.wait_for(server.stopped(), 2)


async def test_signal_stops_the_server_and_removes_its_socket(folder: Path) -> None:
    async with Server() as server:
        server.stop_on([signal.SIGUSR1])
        server.add(load("pvpanic")(), listen(folder / "s"))
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(server.stopped(), 2)
    assert os.listdir(folder) == []


async def test_stopping_disconnects_the_client(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Server() as server:
        server.add(load("pvpanic")(), listen(folder / "s"))
        client = await Client.connect(folder / "s")
    with pytest.raises(DisconnectedError):
        await client.device_info()
    client.close()
    assert "the server stops" in caplog.text
