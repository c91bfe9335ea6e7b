"""Where capabilities lie: offsets for those that name none, and a refusal of those that claim one byte (S2.7, S2.12).

It must not know what is in a capability, nor how lists are linked.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from vfuserver.errors import DeclarationError
from vfuserver.pci.capability import AnyCapability
from vfuserver.pci.checks import require_multiple
from vfuserver.pci.fields import DWORD

CONFIG_SIZE: Final = 0x100
EXTENDED_CONFIG_SIZE: Final = 0x1000
FIRST_CAPABILITY: Final = 0x40
FIRST_EXTENDED_CAPABILITY: Final = 0x100


@dataclass(frozen=True, slots=True)
class Area:
    """The offsets [first, end) that one kind of capability may occupy."""

    first: int
    end: int


ORDINARY: Final = Area(FIRST_CAPABILITY, CONFIG_SIZE)
EXTENDED: Final = Area(FIRST_EXTENDED_CAPABILITY, EXTENDED_CONFIG_SIZE)


@dataclass(frozen=True, slots=True)
class Placed:
    """A capability and the offset of its first byte."""

    capability: AnyCapability
    start: int

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.start + self.capability.length

    def __str__(self) -> str:
        return f"{self.capability.name} ({self.start:#x} to {self.end - 1:#x})"


def place(capabilities: Sequence[AnyCapability], area: Area) -> Sequence[Placed]:
    """Gives every capability an offset, in the order of declaration.

    Those with `at` come first; each of the others takes the lowest dword-aligned room that is left. DeclarationError
    for an offset that is not a multiple of 4 or outside the area, for two that overlap (naming both), for no room.
    """
    taken = {index: _explicit(one, one.at, area) for index, one in enumerate(capabilities) if one.at is not None}
    _refuse_overlap(taken.values())
    for index, one in enumerate(capabilities):
        if index not in taken:
            taken[index] = Placed(one, _room(one, taken.values(), area))
    return [taken[index] for index in sorted(taken)]


def _explicit(capability: AnyCapability, at: int, area: Area) -> Placed:
    placed = Placed(capability, at)
    require_multiple(f"offset of {capability.name}", placed.start, DWORD)
    if placed.start < area.first or placed.end > area.end:
        raise DeclarationError(f"{placed} must lie within {area.first:#x} to {area.end - 1:#x}, not outside")
    return placed


def _refuse_overlap(taken: Iterable[Placed]) -> None:
    for one, other in pairwise(sorted(taken, key=lambda placed: placed.start)):
        if one.end > other.start:
            raise DeclarationError(f"a byte must belong to one capability, not to {one} and {other}")


def _room(capability: AnyCapability, taken: Iterable[Placed], area: Area) -> int:
    start = area.first
    for placed in sorted(taken, key=lambda placed: placed.start):
        if start + capability.length <= placed.start:
            break
        start = max(start, -(-placed.end // DWORD) * DWORD)
    if start + capability.length > area.end:
        raise DeclarationError(
            f"capabilities must fit into {area.first:#x} to {area.end - 1:#x}, not leave "
            f"{capability.name} ({capability.length} bytes) without room"
        )
    return start
