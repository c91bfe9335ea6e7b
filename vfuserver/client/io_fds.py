"""What DEVICE_GET_REGION_IO_FDS gives a client: the places of a region that are reached by descriptors.

A guest's KVM would signal the eventfds; `IoFd.ring` does what KVM does. It must not know any server's internals.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from vfuserver.errors import LocalError, PeerError
from vfuserver.session.commands.device_get_region_io_fds import SHADOWED, SUB_REGION, DeviceGetRegionIoFds
from vfuserver.vfio import IoEventFlags, IoFdType


@dataclass(frozen=True, slots=True)
class IoFd:
    """One sub-region, in bytes. The descriptors are its RegionIoFds'; `shadow_fd` is -1 without a shadow.

    `value` is the datamatch of an ioeventfd and the user_data of an ioregionfd.
    """

    type: IoFdType
    offset: int
    size: int
    flags: int
    fd: int
    value: int
    shadow_fd: int = -1
    shadow_offset: int = 0

    def ring(self, value: int = 0) -> bool:
        """A guest writes `value` there: True if that signals the eventfd. LocalError: it is an ioregionfd."""
        if self.type is IoFdType.IOREGIONFD:
            raise LocalError(f"the sub-region at {self.offset:#x} is an ioregionfd, which only a kernel can speak to")
        if self.flags & IoEventFlags.DATAMATCH and value != self.value:
            return False
        if self.shadow_fd >= 0:
            os.pwrite(self.shadow_fd, value.to_bytes(self.size, "little"), self.shadow_offset)
        os.eventfd_write(self.fd, 1)
        return True


@dataclass(slots=True)
class RegionIoFds:
    """All sub-regions of one region, and the owner of their descriptors."""

    index: int
    sub_regions: tuple[IoFd, ...]
    fds: list[int]

    def close(self) -> None:
        """Closes the descriptors. Idempotent."""
        while self.fds:
            os.close(self.fds.pop())


def decode_io_fds(reply: bytes, argsz: int, count: int, fds: Sequence[int]) -> tuple[IoFd, ...]:
    """The sub-regions of a whole reply: 40 bytes each, or more, as libvfio-user's. PeerError: they make no sense."""
    start = DeviceGetRegionIoFds.reply.size
    stride, rest = divmod(argsz - start, count) if count else (SUB_REGION.size, argsz - start)
    if rest or stride < SUB_REGION.size or SUB_REGION.size < stride < SHADOWED.size:
        raise PeerError(f"{count} sub-regions in {argsz - start} bytes: each must have {SUB_REGION.size} or more")
    return tuple(_decode(reply[at : at + stride], fds) for at in range(start, start + count * stride, stride))


def _decode(row: bytes, fds: Sequence[int]) -> IoFd:
    offset, size, fd, kind, flags, other, value = SUB_REGION.unpack(row)
    shadow_fd, shadow_offset = -1, 0
    if kind not in list(IoFdType):
        raise PeerError(f"a sub-region's type must be one of {', '.join(map(str, IoFdType))}, not {kind}")
    if len(row) >= SHADOWED.size and kind != IoFdType.IOREGIONFD:
        *_, shadow_offset, value = SHADOWED.unpack(row)
    if kind == IoFdType.SHADOW:
        shadow_fd = _at(fds, other)
    return IoFd(IoFdType(kind), offset, size, flags, _at(fds, fd), value, shadow_fd, shadow_offset)


def _at(fds: Sequence[int], index: int) -> int:
    if index >= len(fds):
        raise PeerError(f"a sub-region's descriptor must be one of the {len(fds)} that came, not number {index}")
    return fds[index]
