"""DMA_MAP and DMA_UNMAP of a known file: CPU of the server, kernel included, beside the bare system calls.

Client and server are one thread of one process: a batch is sent, and only then does the server's turn begin, so that
nobody's waking up is counted. It must not use the client library: what the client costs is not asked.
"""

import array
import ctypes
import os
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from benchmarks.polling import NoClock
from vfuserver._core import Pump
from vfuserver.device.loader import load
from vfuserver.session import Session
from vfuserver.session.commands.dma_map import DmaMap
from vfuserver.session.commands.dma_unmap import DmaUnmap
from vfuserver.session.commands.version import Version
from vfuserver.wire import command_message

PAGE, AREAS, BATCH = 4096, 4096, 64
READ_WRITE: Final = 3
RECEIVE: Final = 1 << 20


class Maps:
    """A session with a client's end, and one more socket pair for the bare calls."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._bare: Any = library.bare
        self._device = load("testdev")()
        self._client, self._server = socket.socketpair()
        self._server.setblocking(False)
        self._session = Session(self._device, schedule=lambda *_: NoClock(), on_output=lambda: None)
        self._pump = Pump(self._session.stream, self._server.fileno())
        self._fd = os.memfd_create("guest")
        os.ftruncate(self._fd, AREAS * PAGE)
        self._ask([command_message(Version.number, 0, Version.request.build(major=0, minor=0, data=b""))])

    def __enter__(self) -> "Maps":
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close("measured")
        self._device.close()
        self._client.close()
        self._server.close()
        os.close(self._fd)

    def once(self) -> dict[str, float]:
        """Nanoseconds of CPU of one DMA_MAP, one DMA_UNMAP, and of the bare calls for the same messages."""
        maps = [_message(DmaMap, 32, READ_WRITE, page * PAGE, page * PAGE, PAGE) for page in range(AREAS)]
        unmaps = [_message(DmaUnmap, 24, 0, page * PAGE, PAGE) for page in range(AREAS)]
        self._ask(maps[:1], self._fd)
        found = {
            "map": self._each(maps[1:], lambda batch: self._ask(batch, self._fd)),
            "bare": self._each(maps[1:], self._receive_bare),
        }
        if self._session.connection.ioas.count != AREAS:
            raise RuntimeError(f"{self._session.connection.ioas.count} areas, must be {AREAS}")
        found["unmap"] = self._each(unmaps, self._ask)
        return found

    @staticmethod
    def _each(messages: list[bytes], serve: Callable[[list[bytes]], int]) -> float:
        batches = [messages[at : at + BATCH] for at in range(0, len(messages), BATCH)]
        return sum(serve(batch) for batch in batches) / len(messages)

    def _send(self, messages: list[bytes], fd: int | None) -> None:
        for message in messages:
            carried = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            self._client.sendmsg([message], carried)

    def _ask(self, messages: list[bytes], fd: int | None = None) -> int:
        """CPU of the server's turn; every message is answered in it."""
        self._send(messages, fd)
        received = self._session.stream.received
        start = time.thread_time_ns()
        while self._session.stream.received < received + len(messages):
            self._pump.run()
        spent = time.thread_time_ns() - start
        self._client.recv(RECEIVE)
        return spent

    def _receive_bare(self, messages: list[bytes]) -> int:
        self._send(messages, self._fd)
        start = time.thread_time_ns()
        failed = self._bare(self._server.fileno(), len(messages), ctypes.c_uint64(len(messages[0])))
        spent = time.thread_time_ns() - start
        if failed:
            raise RuntimeError("the bare calls failed")
        return spent


def _message(command: type[DmaMap | DmaUnmap], *fields: int) -> bytes:
    return command_message(command.number, 1, command.request.pack(*fields))
