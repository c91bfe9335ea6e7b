"""The relay forwards bytes both ways, and no descriptor."""

import array
import asyncio
import os
import socket
from pathlib import Path

from vfuserver.guest.relay import relay


async def test_relay_forwards_bytes_and_drops_descriptors(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as near:
        listening.bind(str(tmp_path / "server"))
        listening.listen()
        listening.setblocking(False)
        async with relay(tmp_path / "relay", tmp_path / "server"):
            near.setblocking(False)
            await loop.sock_connect(near, str(tmp_path / "relay"))
            far, _ = await loop.sock_accept(listening)
            with far:
                read_end, write_end = os.pipe()
                near.sendmsg([b"hello"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write_end]))])
                os.close(write_end)
                far.setblocking(True)
                data, ancillary, _, _ = await asyncio.to_thread(far.recvmsg, 100, 1000)
                assert (data, ancillary) == (b"hello", [])
                assert os.read(read_end, 1) == b""  # nobody holds the other end any more
                os.close(read_end)
                far.sendall(b"answer")
                assert await loop.sock_recv(near, 100) == b"answer"
        assert await loop.sock_recv(near, 100) == b""
    assert not (tmp_path / "relay").exists()


async def test_relay_to_a_server_that_is_not_there_ends_the_connection(tmp_path: Path) -> None:
    async with relay(tmp_path / "relay", tmp_path / "nobody"):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "relay")
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
