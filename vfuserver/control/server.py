"""The control sockets of a server: beside each of its sockets one, all of which lead here.

Requests and answers are lines of JSON (`vfuserver.control`). Everything is bounded, because devices are served by the
same loop: how many talk at a time, how long a request is, and how long somebody may be silent or not read. It must
not know the commands.
"""

import asyncio
import json
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from vfuserver.control.command import CONTROL_COMMANDS, command_of
from vfuserver.control.place import beside
from vfuserver.engine import Server
from vfuserver.engine.accepting import Accepting
from vfuserver.engine.listen import Listener, listen
from vfuserver.errors import UsageError, VfuserverError
from vfuserver.plain import Descriptor

log = logging.getLogger("vfuserver.control")

NAME: Final = "control"
"""What goes to another process is called so."""
MODE: Final = 0o600
MOST_CLIENTS: Final = 8
MOST_REQUEST: Final = 1 << 16
"""Bytes of a request, its newline included."""
PATIENCE: Final = 5.0
"""Seconds that a client may take for a request, and to read an answer."""
_CHUNK: Final = 1 << 16


class ControlServer:
    """Answers what is asked of `server`: `async with Server() as server: ...; async with ControlServer(server)`.

    Sockets are made on entry beside those that the server has then, and removed on exit. Where one cannot be made the
    devices are served without it, and the log says so.
    """

    def __init__(self, server: Server, patience: float = PATIENCE, carried: Sequence[Any] = ()) -> None:
        """`carried`: the sockets that another process has had, instead of new ones."""
        self._server = server
        self._carried = carried
        self._patience = patience
        self._places: list[tuple[Listener, Accepting]] = []
        self._clients: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> "ControlServer":
        CONTROL_COMMANDS.all()  # imported now, and not while devices wait
        self._server.companions[NAME] = self
        if self._carried:
            for path, listener in self._carried:
                self._listen(Listener(socket.socket(fileno=os.dup(listener.fd)), Path(path)))
            return self
        for path in [one.listener.path for one in self._server.served]:
            if path is None:
                continue
            try:
                listener = listen(beside(path), MODE)
            except UsageError as error:
                log.warning("no control socket, so that `vfuserver inspect %s` finds nobody: %s", path, error)
                continue
            self._listen(listener)
        return self

    async def __aexit__(self, *_: object) -> None:
        for listener, accepting in self._places:
            accepting.close()
            listener.close()
        self._places.clear()
        for task in tuple(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    def carry(self) -> list[Any]:
        """Its sockets, for another process."""
        return [[str(listener.path), Descriptor(listener.socket.fileno())] for listener, _ in self._places]

    def leave(self) -> None:
        """Another process listens there; who is connected here gets its answer."""
        for listener, accepting in self._places:
            accepting.close()
            listener.leave()
        self._places.clear()

    def _listen(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        self._places.append((listener, Accepting(loop, listener.socket, str(listener.path), self._newcomer)))

    def _newcomer(self, sock: socket.socket) -> None:
        if len(self._clients) >= MOST_CLIENTS:
            log.warning("a control client is refused: %d are connected", MOST_CLIENTS)
            sock.close()
            return
        sock.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(sock))
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def _serve(self, sock: socket.socket) -> None:
        """One client, until it closes, errs or makes us wait."""
        loop, received = asyncio.get_running_loop(), bytearray()
        with sock:
            try:
                while (line := await self._line(sock, received)) is not None:
                    answer = await self._answer(line)
                    async with asyncio.timeout(self._patience):
                        await loop.sock_sendall(sock, answer)
                    if self._server.left:
                        self._server.stop()
                        return
            except TimeoutError:
                log.info("a control client is dropped: it was silent, or did not read, for %g s", self._patience)
            except OSError as error:
                log.info("a control client is gone: %s", error.strerror)

    async def _line(self, sock: socket.socket, received: bytearray) -> bytes | None:
        """The next request, without its newline; what came behind it stays in `received`. None: it has closed."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._patience):
            while (end := received.find(b"\n")) < 0:
                if len(received) >= MOST_REQUEST:
                    await loop.sock_sendall(sock, _error(f"a request must have at most {MOST_REQUEST} bytes", True))
                    return None
                data = await loop.sock_recv(sock, min(_CHUNK, MOST_REQUEST - len(received)))
                if not data:
                    return None
                received += data
        line = bytes(received[:end])
        del received[: end + 1]
        return line

    async def _answer(self, line: bytes) -> bytes:
        """Whatever was asked, the server lives on."""
        try:
            command = command_of(_parsed(line))
            return _line_of({"result": await command.run(self._server)})
        except VfuserverError as error:
            return _error(str(error), isinstance(error, UsageError))
        except Exception as error:
            log.exception("a control command failed")
            return _error(f"an error of the server's own, see its log: {error!r}", False)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"a request must be a line of JSON: {error}") from error


def _error(text: str, usage: bool) -> bytes:
    return _line_of({"error": text, "usage": usage})


def _line_of(answer: dict[str, Any]) -> bytes:
    return json.dumps(answer, separators=(",", ":")).encode() + b"\n"
