"""What is said where the library, or something of it, is not there; and what it cannot do, before anything listens."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vfuserver import _core
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
    done = serve(folder, folder / "none.so")
    assert done.returncode == 2
    assert "name its file with LIBVFIO_USER_SO" in done.stderr
    assert not (folder / "s").exists()


def a_text(folder: Path) -> Path:
    text = folder / "library.so"
    text.write_text("no library\n")
    return text


def another_library(_folder: Path) -> Path:
    return Path(_core.__file__)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (a_text, "cannot be loaded.*library.so"),
        (lambda folder: folder, "cannot be loaded.*irectory"),
        (another_library, "is no libvfio-user of 2022 or later: it has no vfu_create_ctx"),
    ],
    ids=["a text", "a directory", "another library"],
)
def test_serve_with_what_is_no_libvfio_user_says_so(folder: Path, named: Callable[[Path], Path], words: str) -> None:
    done = serve(folder, named(folder))
    assert done.returncode == 2
    assert re.search(words, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "s").exists()


def test_serve_without_cffi_says_what_to_install(folder: Path) -> None:
    start = "import sys; sys.modules['cffi'] = None; from vfuserver.cli import main; main()"
    done = serve(folder, folder / "none.so", sys.executable, "-c", start)
    assert done.returncode == 2
    assert "pip install 'vfuserver[libvfio-user]'" in done.stderr


def serve(folder: Path, library: Path, *program: str) -> "subprocess.CompletedProcess[str]":
    words = program or (str(Path(sys.executable).parent / "vfuserver"),)
    return subprocess.run(
        [*words, "serve", "edu", "--engine", "libvfio-user", "--socket", folder / "s"],
        env={**os.environ, "LIBVFIO_USER_SO": str(library)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
