"""A device's memory in a stream: every window of every BAR, cut into chunks of 1 MiB, one section for each.

A chunk may come again, when what is in it has changed since it was sent: the last one counts. A payload is the place
(BAR, length, offset in the BAR) and the bytes, or no bytes where all of them are zero. It must not know how a stream is
laid out.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from vfuserver._core import copy_far, crc32, snapshot
from vfuserver.device.migration.room import Room
from vfuserver.errors import CommandError

if TYPE_CHECKING:
    from vfuserver.device.bar import BoundBar
    from vfuserver.device.pci_device import PciDevice
    from vfuserver.registers import MemoryWindow

SECTION: Final = "memory"
VERSION: Final = 1
CHUNK: Final = 1 << 20
_PLACE: Final = struct.Struct("<B3xIQ")
_ZEROS: Final = bytes(CHUNK)


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """`length` bytes at `offset` of a BAR, from `start` on in one window."""

    bound: BoundBar
    row: MemoryWindow
    start: int
    length: int

    @property
    def bar(self) -> int:
        """The BAR's index."""
        return self.bound.declared.index

    @property
    def offset(self) -> int:
        """Bytes from the BAR's beginning."""
        return self.row.offset + self.start

    @property
    def streamed(self) -> bool:
        """True if it goes ahead."""
        return self.bound.declared.streamed

    @property
    def view(self) -> memoryview:
        """The device's own memory there. Not kept, so that whoever has a chunk does not keep a closed BAR mapped."""
        return self.bound.windows[self.row.index][self.start : self.start + self.length]

    def taken(self) -> tuple[bytes, tuple[bytes, ...], int]:
        """What is in it now, what its section has to say of that, and the CRC of the latter."""
        place = _PLACE.pack(self.bar, self.length, self.offset)
        start = crc32(place)
        data, crc = snapshot(self.view, start)
        return (data, (place,), start) if data == _ZEROS[: self.length] else (data, (place, data), crc)

    @property
    def most(self) -> int:
        """The longest payload, in bytes."""
        return _PLACE.size + self.length


def chunks(device: PciDevice) -> Iterator[Chunk]:
    """All of a device's memory, in order."""
    for bar in device.bars.values():
        for row in bar.declared.windows:
            for start in range(0, row.size, CHUNK):
                yield Chunk(bar, row, start, min(CHUNK, row.size - start))


class Staged:
    """What a stream brings for a device's memory, kept aside until all of it is there and verified."""

    def __init__(self, device: PciDevice) -> None:
        self._chunks = {(one.bar, one.offset): one for one in chunks(device)}
        self._payloads: dict[tuple[int, int], memoryview] = {}
        self.room = Room()
        """Where payloads are to be."""

    def take(self, payload: memoryview) -> None:
        """One section's payload, in the room. CommandError(EINVAL): not of this device's memory."""
        if len(payload) < _PLACE.size:
            raise CommandError(errno.EINVAL, f"a section {SECTION} must have {_PLACE.size} bytes, not {len(payload)}")
        bar, length, offset = _PLACE.unpack_from(payload)
        chunk = self._chunks.get((bar, offset))
        if chunk is None or chunk.length != length or len(payload) - _PLACE.size not in (0, length):
            raise CommandError(errno.EINVAL, f"the device has no {length} bytes of memory at {offset:#x} of BAR{bar}")
        if (bar, offset) in self._payloads:
            self.room.give_back(self._payloads[bar, offset])
        self._payloads[bar, offset] = payload

    def carry(self) -> list[bytes]:
        """The payloads that count so far."""
        return [bytes(payload) for payload in self._payloads.values()]

    def missing(self) -> list[str]:
        """The memory that no section has brought."""
        return [
            f"memory of BAR{bar} at {offset:#x} is missing"
            for bar, offset in self._chunks
            if (bar, offset) not in self._payloads
        ]

    def close(self) -> None:
        """Forgets all of it. Idempotent."""
        self._payloads.clear()
        self.room.close()

    def put(self) -> None:
        """Sets the device's memory."""
        for place, chunk in self._chunks.items():
            copy_far(chunk.view, self._payloads[place][_PLACE.size :] or _ZEROS[: chunk.length])


def place(payload: bytes) -> tuple[int, int, int]:
    """BAR, offset in it and bytes that a section's payload is of. CommandError(EINVAL): it is none."""
    if len(payload) < _PLACE.size:
        raise CommandError(errno.EINVAL, f"a section {SECTION} must have {_PLACE.size} bytes, not {len(payload)}")
    bar, length, offset = _PLACE.unpack_from(payload)
    return bar, offset, length


def content(payload: bytes) -> bytes:
    """The bytes that it brings; none: all of them are zero."""
    return payload[_PLACE.size :]
