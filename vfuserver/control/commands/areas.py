"""areas: the areas of one address space, a piece at a time."""

from dataclasses import dataclass
from typing import Any

from vfuserver.control.command import ControlCommand
from vfuserver.control.commands.inspect import LISTED
from vfuserver.engine import Server
from vfuserver.errors import UsageError
from vfuserver.iommu import CONTEXT

IOVA_END = 1 << 64


@dataclass(frozen=True)
class Areas(ControlCommand, name="areas"):
    """The first LISTED areas of a space (an id of `inspect`) that have a byte at or after `iova`; [] at the end."""

    space: int
    iova: int = 0

    async def run(self, server: Server) -> list[dict[str, Any]]:
        """As `inspect` shows them. CommandError(ENOENT): the space is gone."""
        if not 0 <= self.iova < IOVA_END:
            raise UsageError(f"areas: iova must be less than 2**64, not {self.iova}")
        return CONTEXT.areas(self.space, self.iova, LISTED)
