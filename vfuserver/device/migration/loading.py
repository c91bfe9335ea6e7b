"""Loading: a stream is taken in and verified whole, and only then is the device changed, by what cannot fail (S3.15).

Damage is found where it comes, so nothing of any length is kept of a stream that is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from vfuserver.device.migration import memory
from vfuserver.device.migration.memory import Staged
from vfuserver.device.migration.parts import DEVICE, PARTS
from vfuserver.device.migration.stream import Bytes, Parser, Section, own_room, refused
from vfuserver.errors import CommandError
from vfuserver.plain import decode, encode

if TYPE_CHECKING:
    from vfuserver.device.pci_device import PciDevice

_PARTS: Final = {part.name: part for part in PARTS}
CARRIED: Final = {
    "parser": Parser.CARRIED,
    "sections": [(str, int, bytes)],
    "refused": frozenset((None, (int, str))),
}
"""The shape of carry()."""


class Loading:
    """What a client has written of a stream, for one device; `carried`: to another process, so far."""

    def __init__(self, device: PciDevice, carried: Mapping[str, Any] | None = None) -> None:
        self._device = device
        self._memory = Staged(device)
        self._parser = Parser(self._room)
        self._saved: dict[str, Any] = {}
        self._refused: CommandError | None = None
        if carried is not None:
            self._take_up(carried)

    def write(self, data: Bytes) -> None:
        """Takes the next bytes. CommandError(EINVAL): they cannot be of a stream for this device."""
        self._go_on()
        try:
            for section in self._parser.feed(data):
                self._take(section)
        except CommandError as error:
            self._refused = error
            raise

    def finish(self) -> None:
        """Verifies that all of it is there and sets the device to it. CommandError(EINVAL): nothing was changed."""
        self._go_on()
        self._parser.finish()
        problems = [f"the section {name} is missing" for name in _PARTS if name not in self._saved]
        problems += self._memory.missing()
        for name, saved in self._saved.items():
            problems += _PARTS[name].problems(self._device, saved)
        _refuse(problems)
        self._put()

    def carry(self) -> dict[str, Any]:
        """What another process needs to go on with it, as plain data; it goes on here, too."""
        if self._refused is not None:
            return {"parser": Parser().carry(), "sections": [], "refused": [self._refused.errno, self._refused.message]}
        sections = [[name, _PARTS[name].version, encode(saved)] for name, saved in self._saved.items()]
        sections += [[memory.SECTION, memory.VERSION, payload] for payload in self._memory.carry()]
        return {"parser": self._parser.carry(), "sections": sections, "refused": None}

    def close(self) -> None:
        """What came is not needed any more. Idempotent."""
        self._memory.close()

    # -- inside

    def _take_up(self, carried: Mapping[str, Any]) -> None:
        if carried["refused"] is not None:
            self._refused = CommandError(*carried["refused"])
            return
        try:
            for name, version, payload in carried["sections"]:
                own = self._room(name, len(payload))
                own[:] = payload
                self._take(Section(name, version, own))
            self._parser.adopt(carried["parser"])
        except CommandError:
            self.close()
            raise

    def _go_on(self) -> None:
        if self._refused is not None:
            raise self._refused

    def _room(self, name: str, size: int) -> memoryview:
        return self._memory.room.take(size) if name == memory.SECTION else own_room(name, size)

    def _take(self, section: Section) -> None:
        name = section.name
        version = memory.VERSION if name == memory.SECTION else _PARTS[name].version if name in _PARTS else None
        if section.version != version:
            if section.optional:
                return
            raise refused(f"the section {name} has version {section.version}, must be {version or 'one that is known'}")
        if not self._saved and name != DEVICE.name:
            raise refused(f"it begins with the section {name}, must be {DEVICE.name}")
        if name == memory.SECTION:
            self._memory.take(memoryview(section.payload))
            return
        if name in self._saved:
            raise refused(f"the section {name} is there twice")
        self._saved[name] = decode(section.payload)
        if name == DEVICE.name:
            _refuse(DEVICE.problems(self._device, self._saved[name]))

    def _put(self) -> None:
        self._device.lose_state(memory=False)
        self._memory.put()
        for part in PARTS:
            part.put(self._device, self._saved[part.name])


def _refuse(problems: list[str]) -> None:
    if problems:
        raise refused("; ".join(problems))
