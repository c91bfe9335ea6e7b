"""Bytes <-> values: the message header and the building blocks of every layout, in construct. Re-exports only.

It must not know what a command means, who sends it or how it is answered.
"""

from vfuserver.wire.header import (
    HEADER,
    HEADER_SIZE,
    NO_REPLY,
    Header,
    MessageFlags,
    command_head,
    command_message,
    error_message,
    reply_message,
    split_message,
)
from vfuserver.wire.layout import EMPTY, S32, U16, U32, U64, Array, Bits, Blob, Count, Layout, LayoutError, Nested, Rest

__all__ = [
    "EMPTY",
    "HEADER",
    "HEADER_SIZE",
    "NO_REPLY",
    "S32",
    "U16",
    "U32",
    "U64",
    "Array",
    "Bits",
    "Blob",
    "Count",
    "Header",
    "Layout",
    "LayoutError",
    "MessageFlags",
    "Nested",
    "Rest",
    "command_head",
    "command_message",
    "error_message",
    "reply_message",
    "split_message",
]
