"""The one walker of capability lists: over bytes, bounded, for any image, however broken (S2.8).

Configuration space checks itself with it when it is made, `probe` shows other people's devices with it, tests compare
with it. What is sane up to the first fault is returned; the fault is logged once. It must not know capabilities.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from vfuserver.pci.capability import (
    CAPABILITY_ID,
    CAPABILITY_NEXT,
    HIGHEST_EXTENDED_ID,
    HIGHEST_VERSION,
    NEXT_SHIFT,
    VERSION_SHIFT,
)
from vfuserver.pci.fields import BYTE, DWORD, WORD
from vfuserver.pci.header import CAPABILITIES_POINTER, STATUS, Status
from vfuserver.pci.placement import EXTENDED, ORDINARY, Area

MAX_CAPABILITIES: Final = (ORDINARY.end - ORDINARY.first) // DWORD
"""48: more capabilities of 4 bytes have no room in 256 bytes."""
MAX_EXTENDED_CAPABILITIES: Final = (EXTENDED.end - EXTENDED.first) // DWORD
"""960: likewise from 0x100 to 0xfff."""

_NO_FUNCTION: Final = 0xFFFF_FFFF
_UNALIGNED: Final = DWORD - 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Link:
    """One list element: the capability's offset and id, the offset of the next (0: the last), and its version
    (extended capabilities only)."""

    offset: int
    id: int
    next: int
    version: int = 0


def walk(image: Sequence[int]) -> list[Link]:
    """The ordinary capabilities of a configuration image, in list order; none when STATUS says that there is no list.

    The list ends at a zero pointer, and after a log line at one that is below 0x40, not dword aligned, beyond the
    image or already visited.
    """
    if len(image) < ORDINARY.first or not _load(image, STATUS, WORD) & Status.CAPABILITIES_LIST:
        return []
    first = image[CAPABILITIES_POINTER] & ~_UNALIGNED
    return _follow(image, first, ORDINARY, MAX_CAPABILITIES, _ordinary)


def walk_extended(image: Sequence[int]) -> list[Link]:
    """The extended capabilities of a configuration image, in list order; none in an image of 256 bytes, or where the
    first header is all zeros or all ones. Faults end the list as in walk()."""
    if len(image) < EXTENDED.first + DWORD or _load(image, EXTENDED.first, DWORD) in (0, _NO_FUNCTION):
        return []
    return _follow(image, EXTENDED.first, EXTENDED, MAX_EXTENDED_CAPABILITIES, _extended)


def _follow(
    image: Sequence[int], first: int, area: Area, bound: int, link_at: Callable[[Sequence[int], int], Link]
) -> list[Link]:
    links: list[Link] = []
    seen: set[int] = set()
    offset = first
    while offset:
        fault = _fault(image, offset, area, seen)
        if fault or len(links) == bound:
            _log.warning("capability list ends at %#x: %s", offset, fault or f"more than {bound} capabilities")
            break
        links.append(link_at(image, offset))
        seen.add(offset)
        offset = links[-1].next
    return links


def _fault(image: Sequence[int], offset: int, area: Area, seen: set[int]) -> str:
    if offset < area.first:
        return f"below {area.first:#x}"
    if offset & _UNALIGNED:
        return "not dword aligned"
    if offset + DWORD > min(area.end, len(image)):
        return "beyond the end"
    return "a loop" if offset in seen else ""


def _ordinary(image: Sequence[int], offset: int) -> Link:
    return Link(offset, image[offset + CAPABILITY_ID], image[offset + CAPABILITY_NEXT])


def _extended(image: Sequence[int], offset: int) -> Link:
    header = _load(image, offset, DWORD)
    version = header >> VERSION_SHIFT & HIGHEST_VERSION
    return Link(offset, header & HIGHEST_EXTENDED_ID, header >> NEXT_SHIFT, version)


def _load(image: Sequence[int], offset: int, width: int) -> int:
    return sum(image[offset + index] << 8 * index for index in range(0, width, BYTE))
