"""What is said where the library, or something of it, is not there; and what it cannot do, before anything listens."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vfuserver.device.loader import load
from vfuserver.engine import Listener, listen
from vfuserver.engine.libvfio_user.refusals import check
from vfuserver.errors import UsageError
from vfuserver.session import SessionOptions
from vfuserver.vfio import Backend


@pytest.fixture
def listener(folder: Path) -> Iterator[Listener]:
    made = listen(folder / "s")
    yield made
    made.close()


@pytest.fixture
def device() -> Iterator[Backend]:
    made = load("edu")()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (SessionOptions(max_data_xfer_size=8192), "1 MiB.*max-data-xfer-size"),
        (SessionOptions(write_multiple=True), "REGION_WRITE_MULTI"),
        (SessionOptions(migration="both"), "--migration v2 or none"),
        (SessionOptions(quirks={"message-dma": "old"}), "quirk message-dma"),
    ],
)
def test_option_that_the_library_has_not_is_refused(
    device: Backend, listener: Listener, options: SessionOptions, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        check(device, options, listener)


def test_connected_socket_is_refused(device: Backend, listener: Listener) -> None:
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(UsageError, match="takes no connected socket"):
        check(device, SessionOptions(), Listener(ours))


def test_serve_without_the_library_says_what_to_do(folder: Path) -> None:
    pytest.importorskip("cffi", reason="cffi is not installed: pip install 'vfuserver[libvfio-user]'")
    program = Path(sys.executable).parent / "vfuserver"
    done = subprocess.run(
        [program, "serve", "edu", "--engine", "libvfio-user", "--socket", folder / "s"],
        env={**os.environ, "LIBVFIO_USER_SO": str(folder / "none.so")},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert "name its file with LIBVFIO_USER_SO" in done.stderr
    assert not (folder / "s").exists()
