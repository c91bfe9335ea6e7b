"""Saving: one stream of one device, from what goes ahead while the guest runs to its end.

Memory of BARs that are `streamed` goes ahead. What was sent is kept, so that once the device has stopped exactly what
has changed since is sent again: clients write BARs that they have mapped without anybody noticing. The other parts are
taken at one moment, when the device has stopped; memory is read as the stream is, for nothing writes it any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from vfuserver.device.migration import memory
from vfuserver.device.migration.memory import Chunk, chunks
from vfuserver.device.migration.parts import DEVICE, PARTS
from vfuserver.device.migration.stream import Bytes, Writer
from vfuserver.plain import encode

if TYPE_CHECKING:
    from vfuserver.device.pci_device import PciDevice


CARRIED: Final = {
    "ready": [bytes],
    "writer": (int, int),
    "sent": [(int, int)],
    "initial": bool,
    "frozen": bool,
}
"""The shape of carry()."""


class Saving:
    """The stream of a device, as far as it goes at this moment; `carried`: one that another process has begun."""

    def __init__(self, device: PciDevice, carried: Mapping[str, Any] | None = None) -> None:
        self._device = device
        self._writer = Writer()
        self._ready: deque[memoryview] = deque()
        self._sent: dict[Chunk, bytes] = {}
        self._chunks = tuple(chunks(device))
        self._coming: Iterator[Iterable[Bytes]] | None = None
        self._unsent: list[Chunk] = []
        self._state = 0
        self._initial = True
        if carried is None:
            self._put([self._writer.header()])
            self._put(self._writer.section(DEVICE.name, DEVICE.version, encode(DEVICE.save(device))))
        else:
            self._go_on(carried)

    def freeze(self) -> None:
        """The device has stopped: what is left of the stream is known now. LocalError: something cannot be saved."""
        if self._coming is None:
            self._device.on_save()
            sections = self._sections()
            self._state = _total(sections)
            self._unsent = [one for one in self._chunks if self._differs(one)]
            self._coming = self._rest(sections)

    def read(self, size: int) -> memoryview:
        """At most `size` further bytes; none: there are none now, or after freeze() none any more."""
        if not self._ready and not self._more():
            return memoryview(b"")
        piece = self._ready.popleft()
        if len(piece) > size:
            self._ready.appendleft(piece[size:])
        return piece[:size]

    def left(self) -> int:
        """About how many bytes are still to come, were the device stopped now."""
        if self._coming is not None:
            return self._waiting + self._state + sum(one.most for one in self._unsent)
        unsent = sum(one.most for one in self._chunks if self._differs(one))
        return self._waiting + _total(self._sections()) + unsent

    def precopy(self) -> tuple[int, int]:
        """Bytes of what goes ahead: those of the first round, and those that have changed since they were sent."""
        ahead = [one for one in self._chunks if one.streamed]
        initial = sum(one.most for one in ahead if one not in self._sent)
        dirty = sum(one.most for one in ahead if one in self._sent and self._differs(one))
        return (initial + self._waiting, dirty) if self._initial else (0, dirty + self._waiting)

    def carry(self) -> dict[str, Any]:
        """What another process needs to go on with it, as plain data: what is made and not read yet, all there is
        after freeze(). What went ahead goes again there, because what it looked like stays here."""
        while self._coming is not None and self._more():
            pass
        return {
            "ready": [bytes(piece) for piece in self._ready],
            "writer": self._writer.carry(),
            "sent": [[chunk.bar, chunk.offset] for chunk in self._sent],
            "initial": self._initial,
            "frozen": self._coming is not None,
        }

    # -- inside

    def _go_on(self, carried: Mapping[str, Any]) -> None:
        self._put(carried["ready"])
        self._writer = Writer(*carried["writer"])
        sent = set(map(tuple, carried["sent"]))
        self._sent = {one: b"" for one in self._chunks if (one.bar, one.offset) in sent}
        self._initial = carried["initial"]
        self._coming = iter(()) if carried["frozen"] else None

    @property
    def _waiting(self) -> int:
        return sum(map(len, self._ready))

    def _more(self) -> bool:
        """Makes the next section. False: there is none."""
        if self._coming is not None:
            section = next(self._coming, None)
            self._put(section or ())
            return section is not None
        chunk = self._next_ahead()
        if chunk is not None:
            self._put(self._section(chunk, keep=True))
        return chunk is not None

    def _next_ahead(self) -> Chunk | None:
        """What was never sent comes first."""
        ahead = [one for one in self._chunks if one.streamed]
        new = next((one for one in ahead if one not in self._sent), None)
        self._initial = new is not None
        return new or next((one for one in ahead if self._differs(one)), None)

    def _rest(self, sections: Iterable[tuple[str, int, bytes]]) -> Iterator[Iterable[Bytes]]:
        while self._unsent:
            yield self._section(self._unsent.pop(0), keep=False)
        for name, version, payload in sections:
            self._state -= len(payload)
            yield self._writer.section(name, version, payload)
        yield self._writer.end()

    def _sections(self) -> list[tuple[str, int, bytes]]:
        return [(part.name, part.version, encode(part.save(self._device))) for part in PARTS[1:]]

    def _section(self, chunk: Chunk, *, keep: bool) -> Iterable[Bytes]:
        data, payload, crc = chunk.taken()
        if keep:
            self._sent[chunk] = data
        return self._writer.section(memory.SECTION, memory.VERSION, *payload, crc=crc)

    def _differs(self, chunk: Chunk) -> bool:
        sent = self._sent.get(chunk)
        return sent is None or sent != bytes(chunk.view)  # a copy, because views are compared byte by byte

    def _put(self, pieces: Iterable[Bytes]) -> None:
        self._ready.extend(memoryview(piece) for piece in pieces if len(piece))


def _total(sections: Iterable[tuple[str, int, bytes]]) -> int:
    return sum(len(payload) for *_, payload in sections)
