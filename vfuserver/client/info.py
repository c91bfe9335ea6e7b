"""What a server says about its device, as values."""

import mmap
import os
from dataclasses import dataclass, field

from vfuserver.errors import LocalError
from vfuserver.vfio import DeviceFlags, IrqFlags, MmapArea, RegionFlags


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """The reply to DEVICE_GET_INFO."""

    flags: DeviceFlags
    num_regions: int
    num_irqs: int


@dataclass(frozen=True, slots=True)
class IrqInfo:
    """The reply to DEVICE_GET_IRQ_INFO."""

    index: int
    flags: IrqFlags
    count: int


@dataclass(slots=True)
class RegionInfo:
    """The reply to DEVICE_GET_REGION_INFO. It owns `fds`; sizes and offsets are in bytes.

    `areas` lie in the one descriptor, `fd` (-1: not mappable), unless they name another one of `fds`.
    """

    index: int
    flags: RegionFlags
    size: int
    offset: int
    areas: tuple[MmapArea, ...]
    fds: list[int] = field(default_factory=list)

    @property
    def fd(self) -> int:
        """The first descriptor, or -1."""
        return self.fds[0] if self.fds else -1

    def file_of(self, area: MmapArea) -> tuple[int, int]:
        """An area's descriptor, and where in that file it begins."""
        return (area.fd, area.fd_offset) if area.fd >= 0 else (self.fd, self.offset + area.offset)

    def mmap(self, area: MmapArea | None = None) -> mmap.mmap:
        """Maps one area, or the whole region; the caller closes it. LocalError: the region has no descriptor."""
        if self.fd < 0:
            raise LocalError(f"region {self.index} came without a descriptor, so nothing of it can be mapped")
        area = area or MmapArea(0, self.size)
        fd, offset = self.file_of(area)
        writable = mmap.PROT_WRITE if self.flags & RegionFlags.WRITE else 0
        return mmap.mmap(fd, area.size, mmap.MAP_SHARED, mmap.PROT_READ | writable, offset=offset)

    def close(self) -> None:
        """Closes the descriptors. Idempotent."""
        while self.fds:
            os.close(self.fds.pop())
