"""Any message as one readable line, from the declarations alone. Never raises: what does not parse is said to.

    DMA_MAP #7 command: argsz=32 flags=READ|WRITE offset=0x0 address=0x100000 size=0x1000 (1 fd)
    DMA_MAP #7 error: EEXIST

It must not know sessions.
"""

import errno
from enum import IntFlag
from typing import Any, Final

from vfuserver.session.command import COMMANDS, Command
from vfuserver.wire import HEADER_SIZE, NO_REPLY, Header, Layout, LayoutError, split_message

SHOWN: Final = 16
"""Bytes of data that are shown."""
DECIMAL: Final = {"argsz", "index", "count", "start", "num_regions", "num_irqs", "region", "wr_cnt", "nr_areas"}
"""Fields that people count in tens; the others are shown in hexadecimal."""


def render(message: bytes, fds: int = 0) -> str:
    """One line for a whole message that came with `fds` descriptors."""
    try:
        header, payload = split_message(message)
    except LayoutError:
        return f"(malformed: {len(message)} bytes, a header has {HEADER_SIZE})"
    command = COMMANDS.get(header.command)
    name = command.name if command else f"command {header.command}"
    line = f"{name} #{header.message_id} {_kind(header)}{_body(command, header, payload)}"
    return f"{line} ({fds} fd{'s' * (fds != 1)})" if fds else line


def _kind(header: Header) -> str:
    if not header.is_reply:
        return "command, no reply" if header.flags & NO_REPLY else "command"
    if header.is_error:
        return f"error: {errno.errorcode.get(header.error, header.error)}"
    return "reply"


def _body(command: type[Command] | None, header: Header, payload: bytes) -> str:
    if not payload:
        return ""
    if command is None:
        return f": {_bytes(payload)}"
    layout = command.reply if header.is_reply else command.request
    return f": {_fields(layout, payload) if layout.names else _bytes(payload)}"


def _fields(layout: Layout, payload: bytes) -> str:
    try:
        return _container(layout.parse(payload))
    except LayoutError as error:
        return f"(malformed: {error}) {_bytes(payload)}"


def _container(values: Any) -> str:
    return " ".join(f"{name}={_value(name, value)}" for name, value in values.items() if name != "_io")


def _value(name: str, value: Any) -> str:
    match value:
        case IntFlag():
            return str(value.name) if value.name else f"{int(value):#x}"
        case int():
            return str(value) if name in DECIMAL else f"{value:#x}"
        case bytes():
            return _bytes(value)
        case list():
            return "[" + ", ".join(_value(name, item) for item in value) + "]"
        case _:
            return f"{{{_container(value)}}}"


def _bytes(data: bytes) -> str:
    if data[:1] == b"{" and data[-1:] == b"\0":  # VERSION's JSON
        return data[:-1].decode("utf-8", "backslashreplace")
    more = "..." if len(data) > SHOWN else ""
    return f"<{len(data)} bytes{': ' if data else ''}{data[:SHOWN].hex()}{more}>"
