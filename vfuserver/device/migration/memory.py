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

    def payload(self, data: bytes) -> tuple[bytes, bytes]:
        """What its section has to say when these bytes are in it."""
        place = _PLACE.pack(self.bar, self.length, self.offset)
        return place, b"" if data == _ZEROS[: self.length] else data

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
        self._data: dict[tuple[int, int], bytes] = {}

    def take(self, payload: bytes) -> None:
        """One section's payload. CommandError(EINVAL): not of this device's memory."""
        if len(payload) < _PLACE.size:
            raise CommandError(errno.EINVAL, f"a section {SECTION} must have {_PLACE.size} bytes, not {len(payload)}")
        bar, length, offset = _PLACE.unpack_from(payload)
        data = payload[_PLACE.size :]
        chunk = self._chunks.get((bar, offset))
        if chunk is None or chunk.length != length or len(data) not in (0, length):
            raise CommandError(errno.EINVAL, f"the device has no {length} bytes of memory at {offset:#x} of BAR{bar}")
        self._data[bar, offset] = data

    def carry(self) -> list[bytes]:
        """The payloads that count so far."""
        return [
            _PLACE.pack(bar, self._chunks[bar, offset].length, offset) + data
            for (bar, offset), data in self._data.items()
        ]

    def missing(self) -> list[str]:
        """The memory that no section has brought."""
        return [
            f"memory of BAR{bar} at {offset:#x} is missing"
            for bar, offset in self._chunks
            if (bar, offset) not in self._data
        ]

    def put(self) -> None:
        """Sets the device's memory."""
        for place, chunk in self._chunks.items():
            chunk.view[:] = self._data[place] or _ZEROS[: chunk.length]


def place(payload: bytes) -> tuple[int, int, int]:
    """BAR, offset in it and bytes that a section's payload is of. CommandError(EINVAL): it is none."""
    if len(payload) < _PLACE.size:
        raise CommandError(errno.EINVAL, f"a section {SECTION} must have {_PLACE.size} bytes, not {len(payload)}")
    bar, length, offset = _PLACE.unpack_from(payload)
    return bar, offset, length


def content(payload: bytes) -> bytes:
    """The bytes that it brings; none: all of them are zero."""
    return payload[_PLACE.size :]
