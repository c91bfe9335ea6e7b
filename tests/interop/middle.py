"""Somebody between a client and a server that serves one client: says something first, and may hold a reply back.

Message by message and without descriptors. It knows headers only.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vfuserver.wire import HEADER_SIZE, Header, command_message, split_message

OWN_ID = 0xFFFE
"""Of our own messages: a client would have to send as many before it uses it."""


class Middle:
    """Listens at `path` for one client of the server at `server`.

    `first` are (command, payload) that the server gets once it has answered VERSION. When the server has answered the
    command `hold`, `held` is called and that reply waits until the client says something else.
    """

    def __init__(
        self,
        path: Path,
        server: Path,
        first: Sequence[tuple[int, bytes]] = (),
        hold: int = 0,
        held: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.errors: list[Header] = []
        """Error replies of the server."""
        self._first, self._hold, self._held = first, hold, held
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(str(server))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
        self._server.close()
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # nobody came
            return
        with client:
            self._pass(client)

    def _pass(self, client: socket.socket) -> None:
        kept = b""
        for number, request in enumerate(iter(lambda: _message(client), b"")):
            reply = self._ask(request)
            if number == 0:
                for command, payload in self._first:
                    self._ask(command_message(command, OWN_ID, payload))
            client.sendall(kept)
            kept = b""
            if self._hold and split_message(request)[0].command == self._hold:
                self._hold, kept = 0, reply
                self._held()
            else:
                client.sendall(reply)

    def _ask(self, request: bytes) -> bytes:
        self._server.sendall(request)
        reply = _message(self._server)
        header, _ = split_message(reply)
        if header.is_error:
            self.errors.append(header)
        return reply


def _message(sock: socket.socket) -> bytes:
    """A whole one, or nothing at the end."""
    head = sock.recv(HEADER_SIZE, socket.MSG_WAITALL)
    if len(head) < HEADER_SIZE:
        return b""
    header, _ = split_message(head)
    rest = header.size - HEADER_SIZE
    return head + (sock.recv(rest, socket.MSG_WAITALL) if rest else b"")
