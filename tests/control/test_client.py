"""The asking end, where the other one is no control server."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vfuserver.control import ControlClient
from vfuserver.errors import UsageError, VfuserverError


@contextmanager
def answering(path: Path, answer: bytes) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve_one() -> None:
            connected, _ = listener.accept()
            with connected:
                connected.recv(1000)
                connected.sendall(answer)
                connected.shutdown(socket.SHUT_WR)
                connected.recv(1)

        thread = threading.Thread(target=serve_one)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "closed the connection without a whole answer to inspect"),
        (b'{"result": 1', "closed the connection without a whole answer to inspect"),
        (b"HTTP/1.0 400 Bad Request\n", "this is no control socket of vfuserver: it answers b'HTTP"),
        (b"[]\n", "this is no control socket of vfuserver"),
        (b'{"error": "not now", "usage": false}\n', "not now"),
    ],
)
def test_answer_that_is_none_is_an_error_that_says_so(folder: Path, answer: bytes, text: str) -> None:
    with answering(folder / "c", answer), ControlClient(folder / "c") as control:
        with pytest.raises(VfuserverError, match=text) as raised:
            control.ask("inspect")
        assert not isinstance(raised.value, UsageError)


def test_request_that_the_server_finds_wrong_is_a_usage_error(folder: Path) -> None:
    answer, text = b'{"error": "no such thing", "usage": true}\n', "c: no such thing"
    with answering(folder / "c", answer), ControlClient(folder / "c") as control, pytest.raises(UsageError, match=text):
        control.ask("inspect")


def test_server_that_does_not_answer_is_given_up(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(folder / "c"))
        mute.listen()
        with ControlClient(folder / "c", timeout=0.05) as control, pytest.raises(VfuserverError, match="no answer to"):
            control.ask("inspect")
