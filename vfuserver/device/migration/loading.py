"""Loading: a stream is taken in and verified whole, and only then is the device changed, by what cannot fail (S3.15).

Damage is found where it comes, so nothing of any length is kept of a stream that is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vfuserver.device.migration import memory
from vfuserver.device.migration.memory import Staged
from vfuserver.device.migration.parts import DEVICE, PARTS
from vfuserver.device.migration.stream import Bytes, Parser, Section, refused
from vfuserver.errors import CommandError
from vfuserver.plain import decode

if TYPE_CHECKING:
    from vfuserver.device.pci_device import PciDevice

_PARTS: Final = {part.name: part for part in PARTS}


class Loading:
    """What a client has written of a stream, for one device."""

    def __init__(self, device: PciDevice) -> None:
        self._device = device
        self._parser = Parser()
        self._memory = Staged(device)
        self._saved: dict[str, Any] = {}
        self._refused: CommandError | None = None

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

    # -- inside

    def _go_on(self) -> None:
        if self._refused is not None:
            raise self._refused

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
            self._memory.take(section.payload)
            return
        if name in self._saved:
            raise refused(f"the section {name} is there twice")
        self._saved[name] = decode(section.payload)
        if name == DEVICE.name:
            _refuse(DEVICE.problems(self._device, self._saved[name]))

    def _put(self) -> None:
        self._device.lose_state()
        self._memory.put()
        for part in PARTS:
            part.put(self._device, self._saved[part.name])


def _refuse(problems: list[str]) -> None:
    if problems:
        raise refused("; ".join(problems))
