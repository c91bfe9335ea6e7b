"""DEVICE_GET_REGION_IO_FDS: eventfds by which KVM tells the server of writes, without a message.

The specification's sub-region has 40 bytes. libvfio-user's has 48 for every type, because its ioeventfds may have a
shadow: a file in which the kernel leaves the value. So a reply has 48-byte sub-regions if one of them has a shadow,
else 40-byte ones, and a client computes which from argsz and count, as the specification tells it to. Ioregionfds are
decoded and not offered: no released kernel serves them (field-notes A).
"""

import errno
from collections.abc import Iterable, Sequence
from typing import Final

from vfuserver.errors import CommandError
from vfuserver.session.command import Command, Request, Survival, need_argsz
from vfuserver.session.connection import Connection
from vfuserver.vfio import IoEvent, IoFdType
from vfuserver.wire import U32, U64, Layout, Rest

SUB_REGION: Final = Layout(
    "offset" / U64,
    "size" / U64,
    "fd_index" / U32,
    "type" / U32,
    "flags" / U32,
    "padding" / U32,
    "datamatch" / U64,
)
"""One sub-region: an ioeventfd, or an ioregionfd whose last field is user_data."""

SHADOWED: Final = Layout(
    "offset" / U64,
    "size" / U64,
    "fd_index" / U32,
    "type" / U32,
    "flags" / U32,
    "shadow_fd_index" / U32,
    "shadow_offset" / U64,
    "datamatch" / U64,
)
"""One sub-region of libvfio-user: an ioeventfd, with a shadow or without."""


class DeviceGetRegionIoFds(Command, number=6, name="DEVICE_GET_REGION_IO_FDS"):
    """VFIO_USER_DEVICE_GET_REGION_IO_FDS.

    If the sub-regions do not fit in the request's argsz, the reply is the fixed part with the argsz and the count that
    are needed, without descriptors. Sub-regions whose descriptors would be more than the client takes with one message
    (max_msg_fds) are left out: their writes come as messages.
    """

    request = Layout("argsz" / U32, "flags" / U32, "index" / U32, "count" / U32)
    reply = Layout("argsz" / U32, "flags" / U32, "index" / U32, "count" / U32, "sub_regions" / Rest)

    @classmethod
    def survival(cls, payload: bytes) -> Survival:
        """The client has the descriptors from now on."""
        return Survival.KEPT_ANEW

    @classmethod
    def handle(cls, connection: Connection, request: Request) -> bytes | tuple[bytes, list[int]]:
        """Tells what the backend declares, and listens to it. EINVAL: no such index, flags or count not zero."""
        argsz, flags, index, count = request.integers
        need_argsz(argsz, cls.request.size)
        if flags or count:
            raise CommandError(errno.EINVAL, f"flags {flags:#x}, count {count}: must be 0")
        if index >= len(connection.regions):
            raise CommandError(errno.EINVAL, f"region {index}, must be below {len(connection.regions)}")
        events = _offered(connection, connection.regions[index].io_events)
        layout = SHADOWED if any(event.shadow for event in events) else SUB_REGION
        needed = cls.reply.size + layout.size * len(events)
        head = cls.reply.pack(needed, 0, index, len(events))
        if needed > argsz or not events:
            return head
        rows, fds = _sub_regions(connection, layout, events)
        return head + rows, fds


def _offered(connection: Connection, events: Iterable[IoEvent]) -> list[IoEvent]:
    """Those whose descriptors the client takes; none where nobody can listen."""
    if connection.io_events.watch is None:
        return []
    room, offered = connection.most_fds, []
    for event in events:
        room -= 1 + event.shadow
        if room < 0:
            break
        offered.append(event)
    return offered


def _sub_regions(connection: Connection, layout: Layout, events: Sequence[IoEvent]) -> tuple[bytes, list[int]]:
    rows, fds = b"", list[int]()
    for event in events:
        given = connection.io_events.give(event)
        kind = IoFdType.SHADOW if event.shadow else IoFdType.IOEVENTFD
        shadow = (len(fds) + 1 if event.shadow else 0, 0) if layout is SHADOWED else (0,)
        rows += layout.pack(event.offset, event.size, len(fds), kind, event.flags, *shadow, event.match or 0)
        fds += given
    return rows, fds
