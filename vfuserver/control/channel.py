"""Between two processes of one server: plain data with descriptors, one value after the other, in both directions.

Short values lie in the message itself, the bytes of longer ones in a memfd, and descriptors travel in messages of 250,
so that sending hardly ever has to wait for the other side. It must not know what is said.
"""

import asyncio
import os
import select
import socket
import struct
from array import array
from contextlib import ExitStack
from typing import Any, Final, Self

from vfuserver.errors import LocalError, VfuserverError
from vfuserver.plain import decode, encode

FDS: Final = 250
"""Descriptors of one message; the kernel takes 253 (SCM_MAX_FD)."""
SHORT: Final = 16384
"""Bytes of a value that still lies in the message."""
PATIENCE: Final = 5.0
"""Seconds that the other side may leave messages unread."""
_HEAD: Final = struct.Struct("<QI")
"""Bytes of the value, and how many descriptors follow. Then the value; if it does not, a descriptor has it."""


class Received(ExitStack):
    """A value from the other side; its descriptors are closed at the end of the `with` block."""

    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.value = value


class Channel:
    """One end; it owns its socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.setblocking(False)

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """Our end, and the socket of the other one, for another process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def send(self, value: object) -> None:
        """Says a value; descriptors stay the caller's. OSError: nobody hears, or nobody listens for a long time."""
        fds: list[int] = []
        data = encode(value, fds)
        head = _HEAD.pack(len(data), len(fds))
        if len(data) <= SHORT:
            self._send(head + data, [])
        else:
            memory = os.memfd_create("vfuserver value", os.MFD_CLOEXEC)
            try:
                _write_all(memory, data)
                self._send(head, [memory])
            finally:
                os.close(memory)
        for at in range(0, len(fds), FDS):
            self._send(b"+", fds[at : at + FDS])

    async def receive(self, patience: float | None) -> Received:
        """The next value. VfuserverError: none came in so many seconds, or the other side has closed."""
        try:
            async with asyncio.timeout(patience):
                message, fds = await self._next(1)
                with ExitStack() as owned:
                    _own(owned, fds)
                    size, count = _HEAD.unpack_from(message)
                    data, taken = os.pread(fds[0], size, 0) if fds else message[_HEAD.size :], list[int]()
                    while len(taken) < count:
                        _, more = await self._next(FDS)
                        _own(owned, more)
                        taken += more
                    received = Received(decode(data, taken))
                    received.push(owned.pop_all())
                    return received
        except TimeoutError:
            raise VfuserverError(f"the other process said nothing for {patience:g} s") from None

    def fileno(self) -> int:
        """Our end's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hangs up. Idempotent."""
        self._socket.close()

    def _send(self, data: bytes, fds: list[int]) -> None:
        """One message. Blocks while the other side has too much to read already: it is a process of ours."""
        while True:
            try:
                socket.send_fds(self._socket, [data], fds)
                return
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._socket, select.POLLOUT)
                if not poll.poll(PATIENCE * 1000):
                    raise TimeoutError(f"the other process did not read for {PATIENCE:g} s") from None

    async def _next(self, most: int) -> tuple[bytes, list[int]]:
        """One message. VfuserverError: it was the last one."""
        while True:
            try:
                room = socket.CMSG_SPACE(most * array("i").itemsize)
                data, ancillary, _, _ = self._socket.recvmsg(_HEAD.size + SHORT, room, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                await self._readable()
                continue
            if not data:
                raise VfuserverError("the other process has closed the channel")
            fds = array("i")
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(content)
            return data, list(fds)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        came: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._socket.fileno(), lambda: None if came.done() else came.set_result(None))
        try:
            await came
        finally:
            loop.remove_reader(self._socket.fileno())


def _own(stack: ExitStack, fds: list[int]) -> None:
    for fd in fds:
        stack.callback(os.close, fd)


def _write_all(fd: int, data: bytes) -> None:
    with memoryview(data) as rest:
        at = 0
        while at < len(rest):
            written = os.pwrite(fd, rest[at:], at)
            if not written:
                raise LocalError(f"a value of {len(rest)} bytes cannot be written")
            at += written
