"""sd_notify: what systemd is told, on $NOTIFY_SOCKET."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Serve


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """systemd's end of the socket."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@vfuserver-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30)
        sock.bind(name.replace("@", "\0"))
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield sock


def test_systemd_learns_of_start_and_stop(serve: Serve, manager: socket.socket) -> None:
    with serve("edu", "--socket", "edu.sock") as serving:
        assert manager.recv(100) == b"READY=1"
        assert serving.end()[0] == 0
    assert manager.recv(100) == b"STOPPING=1"


def test_systemd_that_does_not_listen_is_a_warning(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    with serve("edu", "--socket", "edu.sock") as serving:
        code, _, err = serving.end()
    assert code == 0
    assert "cannot tell READY=1 to $NOTIFY_SOCKET /nowhere/notify: No such file or directory" in err
