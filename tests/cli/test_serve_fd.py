"""`vfuserver serve --fd N`: sockets that somebody else made."""

import os
import socket
from pathlib import Path

from tests.cli.conftest import Run, Serve
from vfuserver.client import Client


async def test_fd_of_a_listening_socket_is_served_and_its_file_stays(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "theirs.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with serve("edu", "--fd", str(listener.fileno()), pass_fds=[listener.fileno()]) as serving:
            assert serving.lines == [f"ready edu {path}"]
            for _ in range(2):
                async with await Client.connect(path) as client:
                    assert (await client.device_info()).num_regions == 9
    assert path.exists()


async def test_fd_of_a_connected_socket_is_served_until_the_client_closes(serve: Serve) -> None:
    ours, theirs = socket.socketpair()
    with serve("edu", "--fd", str(theirs.fileno()), pass_fds=[theirs.fileno()]) as serving:
        theirs.close()
        assert serving.lines[0].startswith("ready edu fd:")
        async with Client(ours) as client:
            await client.negotiate()
            assert (await client.device_info()).num_regions == 9
        assert serving.process.wait(timeout=30) == 0


def test_fd_that_is_no_socket_exits_2(run: Run, tmp_path: Path) -> None:
    with open(os.devnull) as file:
        done = run("serve", "edu", "--fd", str(file.fileno()), pass_fds=[file.fileno()])
    assert done.returncode == 2
    assert "must be an open socket" in done.stderr


def test_fd_of_another_kind_of_socket_exits_2(run: Run) -> None:
    with socket.socket(socket.AF_INET) as sock:
        done = run("serve", "edu", "--fd", str(sock.fileno()), pass_fds=[sock.fileno()])
    assert done.returncode == 2
    assert "must be a UNIX stream socket, not AF_INET SOCK_STREAM" in done.stderr
