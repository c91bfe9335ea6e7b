"""The 16-byte header of every message (vfio-user specification, Header), and whole messages made with it.

It must not know commands: a number is a number here.
"""

from enum import IntFlag
from typing import Final, NamedTuple

from vfuserver.wire.layout import U16, U32, Bits, Layout


class MessageFlags(IntFlag):
    """`flags` of the header: the type in bits 0-3 (0 command, 1 reply), then single bits."""

    REPLY = 1
    NO_REPLY = 1 << 4
    ERROR = 1 << 5


TYPE_MASK: Final = 0xF
NO_REPLY: Final = int(MessageFlags.NO_REPLY)

HEADER: Final = Layout(
    "message_id" / U16,
    "command" / U16,
    "size" / U32,
    "flags" / Bits(MessageFlags),
    "error" / U32,
)
HEADER_SIZE: Final = 16


class Header(NamedTuple):
    """A parsed header; `size` is the whole message's in bytes, `error` a positive errno (valid with flag ERROR)."""

    message_id: int
    command: int
    size: int
    flags: int
    error: int

    @property
    def is_reply(self) -> bool:
        """True for a reply, False for a command."""
        return self.flags & TYPE_MASK == MessageFlags.REPLY

    @property
    def is_error(self) -> bool:
        """True for a reply whose command failed."""
        return bool(self.flags & MessageFlags.ERROR)


def command_head(number: int, message_id: int, length: int, flags: int = 0) -> bytes:
    """The header of a command whose payload has `length` bytes."""
    return HEADER.pack(message_id, number, HEADER_SIZE + length, flags, 0)


def command_message(number: int, message_id: int, payload: bytes = b"", flags: int = 0) -> bytes:
    """A whole command message."""
    return command_head(number, message_id, len(payload), flags) + payload


def reply_message(number: int, message_id: int, payload: bytes = b"") -> bytes:
    """A whole reply."""
    return HEADER.pack(message_id, number, HEADER_SIZE + len(payload), MessageFlags.REPLY, 0) + payload


def error_message(number: int, message_id: int, errno: int) -> bytes:
    """An error reply: the header only, with a positive errno."""
    return HEADER.pack(message_id, number, HEADER_SIZE, MessageFlags.REPLY | MessageFlags.ERROR, errno)


def split_message(message: bytes) -> tuple[Header, bytes]:
    """Header and payload of a whole message. LayoutError if it is shorter than a header."""
    return Header(*HEADER.unpack(message)), message[HEADER_SIZE:]
