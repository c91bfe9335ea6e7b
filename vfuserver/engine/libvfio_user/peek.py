"""What the next message on a connection is, looked at without taking it.

The library reads one message whole, blocks in the middle of one that has not arrived, and tells a device little of
what it is about to do. So nobody calls it before the message is there, and what it will do is read from the message.
It must not know what messages mean.
"""

import fcntl
import os
import socket
import struct
import termios
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from vfuserver.wire import HEADER, HEADER_SIZE, NO_REPLY, error_message, reply_message

LOOKED_AT: Final = 128
"""Bytes of a message that are looked at: enough for those whose fields concern us."""
LARGEST: Final = (1 << 20) + (1 << 16)
"""What the library takes for a message; it refuses a longer one by its header."""
MOST_FDS: Final = 16
"""Descriptors of one message that the library closes; it loses those that come with more."""
SCM_MAX_FD: Final = 253


@dataclass(frozen=True, slots=True)
class Look:
    """The next message. `command` is 0 where the end of the connection comes next; `arrived` bytes of `size` are there.

    `payload` is its beginning.
    """

    command: int = 0
    size: int = 0
    arrived: int = 0
    payload: bytes = b""
    message_id: int = 0
    flags: int = 0
    has_fds: bool = False
    cut: bool = False
    """Descriptors lie inside its header: the library would take the part before them for all of it, and lose them."""

    @property
    def whole(self) -> bool:
        """Whether the library can take it: all is there, or it will be refused by its header."""
        refused = self.arrived >= HEADER_SIZE and not HEADER_SIZE <= self.size <= LARGEST
        return refused or self.arrived >= self.size

    def integers(self, layout: str) -> tuple[int, ...] | None:
        """The payload's first fields (struct's format, of no padding); None if there are fewer."""
        form = struct.Struct(f"={layout.removeprefix('=')}")
        return form.unpack_from(self.payload) if len(self.payload) >= form.size else None


END: Final = Look()


def peek(connection: socket.socket) -> Look | None:
    """What comes next; None: nothing yet."""
    before = waiting(connection)  # what has arrived by now is all looked at, unless descriptors end the look
    try:
        data, _, told, _ = connection.recvmsg(LOOKED_AT, 0, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except ConnectionError:
        return END
    if not data:
        return END
    arrived = max(before, len(data))
    if len(data) < HEADER_SIZE:
        return Look(size=HEADER_SIZE, arrived=arrived, cut=before >= HEADER_SIZE)
    message_id, command, size, flags, _ = HEADER.unpack(data)
    return Look(command, size, arrived, data[HEADER_SIZE:size], message_id, flags, bool(told & socket.MSG_CTRUNC))


def whole_payload(connection: socket.socket, look: Look) -> bytes:
    """All of a message's payload, which has arrived."""
    return connection.recv(look.size, socket.MSG_PEEK | socket.MSG_DONTWAIT)[HEADER_SIZE:]


def waiting(connection: socket.socket) -> int:
    """Bytes that have arrived."""
    (count,) = struct.unpack("i", fcntl.ioctl(connection, termios.FIONREAD, bytes(4)))
    return int(count)


class Answered(Exception):  # noqa: N818 - no error
    """A message has had its effect already: the library must not see it."""


def unread(connection: socket.socket) -> int:
    """What the other end has not read yet, as the kernel counts it against SO_SNDBUF."""
    (count,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    return int(count)


def answer(connection: socket.socket, look: Look, error: int) -> None:
    """Takes the next message, which is all there, off the connection, and answers it: an errno, or 0 for success."""
    _, ancillary, *_ = connection.recvmsg(look.size, socket.CMSG_SPACE(4 * SCM_MAX_FD), socket.MSG_CMSG_CLOEXEC)
    close_all(_descriptors(ancillary))
    if not look.flags & NO_REPLY:
        make = partial(error_message, errno=error) if error else reply_message
        connection.send(make(look.command, look.message_id), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def drain(connection: socket.socket) -> None:
    """Drops what has arrived, descriptors included: the library loses those of a message that is not whole."""
    with suppress(BlockingIOError, ConnectionError):
        while True:
            data, ancillary, *_ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(4 * SCM_MAX_FD), socket.MSG_DONTWAIT)
            close_all(_descriptors(ancillary))
            if not data:
                return


def peek_descriptors(connection: socket.socket) -> list[int]:
    """Duplicates of the next message's descriptors, owned by the caller."""
    flags = socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    with suppress(BlockingIOError, ConnectionError):
        _, ancillary, *_ = connection.recvmsg(HEADER_SIZE, socket.CMSG_SPACE(4 * SCM_MAX_FD), flags)
        return _descriptors(ancillary)
    return []


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds += struct.unpack(f"={len(data) // 4}i", data[: len(data) // 4 * 4])
    return fds


def close_all(fds: list[int]) -> None:
    """Gives descriptors back."""
    while fds:
        os.close(fds.pop())
