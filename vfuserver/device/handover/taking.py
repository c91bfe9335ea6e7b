"""What a device that was just made takes over from the one that it goes on as.

Everything is verified, and everything that can fail is done, before anything changes; the memory in carried files is
not touched before the device has all the rest of its state. It must not know who carries the data.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from mmap import mmap
from typing import TYPE_CHECKING, Any, Final

from vfuserver._core import is_eventfd
from vfuserver.device.backing import Backing
from vfuserver.device.bound_doorbell import SHADOW_BYTES
from vfuserver.device.handover.giving import FORMAT, bells, check_portable, place_of, without_file
from vfuserver.device.handover.seen import SHAPE as SEEN
from vfuserver.device.handover.seen import differences
from vfuserver.device.migration import loading, saving
from vfuserver.device.migration.parts import DEVICE, PARTS
from vfuserver.device.migration.shape import fits
from vfuserver.errors import CommandError, LocalError
from vfuserver.plain import Descriptor, decode
from vfuserver.vfio import MigrationError, MigrationState

if TYPE_CHECKING:
    from vfuserver.device.card import Card
    from vfuserver.device.migration import DeviceMigration
    from vfuserver.device.pci_device import PciDevice

Carried = Mapping[str, Any]
Lines = Iterator[str]

_BELL: Final = frozenset(((Descriptor,), (Descriptor, Descriptor)))
SHAPE: Final = {
    "format": int,
    "seen": SEEN,
    "parts": [(str, int, bytes)],
    "card": frozenset((None, bytes)),
    "memory": [(str, int, bytes)],
    "files": [(str, int, Descriptor)],
    "bells": [((int, int, int, object, bool), _BELL)],
    "refused": int,
    "migration_state": int,
    "migration": {"saving": [saving.CARRIED], "loading": [loading.CARRIED]},
}
"""Of what hand_over() gives, in FORMAT."""

_CONFIG: Final = "config"
_PARTS: Final = {part.name: part for part in PARTS if part is not DEVICE}


def take_over(device: PciDevice, carried: Any) -> None:
    """Makes a device that was just made the one that hand_over() told of; it is paused then.

    CommandError: EINVAL (it is another one: says everything that differs, a line each), ENOTSUP, or what there is not
    enough of; then nothing has changed. MigrationError: on_load() failed, and the device is in ERROR. LocalError: it
    was not just made.
    """
    check_portable(device)
    _must_be_fresh(device)
    with ExitStack() as kept:
        taking = _Taking(device, carried, kept)
        taking.acquire()
        kept.pop_all()
    taking.put()


class _Taking:
    """One device and what it takes over; what that needs is `kept`. CommandError(EINVAL): it cannot."""

    def __init__(self, device: PciDevice, carried: Any, kept: ExitStack) -> None:
        self._device = device
        self._kept = kept
        self._carried: Carried = carried
        self._parts: dict[str, Any] = {}
        self._card: dict[str, Any] = {}
        self._bells: dict[int, tuple[int, Backing | None]] = {}
        self._files: list[tuple[Backing, int]] = []
        self._streams: Callable[[], None] = lambda: None
        problems = list(self._foreign()) or list(self._problems())
        if problems:
            text = "\n".join(f"  {line}" for line in problems)
            raise CommandError(errno.EINVAL, f"{device.name} cannot take over, it is another device now:\n{text}")

    # -- verifying

    def _foreign(self) -> Lines:
        known = isinstance(self._carried, dict)
        if known and self._carried.get("format") != FORMAT:
            yield f"it takes over format {FORMAT}, not {self._carried.get('format')}"
        elif not fits(self._carried, SHAPE):
            yield "what was handed over must be another kind of data"

    def _problems(self) -> Lines:
        looks = differences(self._device, self._carried["seen"])
        yield from looks
        yield from self._decode()
        for name, value in self._parts.items():
            if name != _CONFIG or not looks:  # what differs there was said, by name
                yield from _PARTS[name].problems(self._device, value)
        if not looks:
            yield from self._unlike_memory()
            yield from self._unlike_files()
        yield from self._unlike_bells()
        yield from self._unlike_card()
        yield from self._unlike_migration()

    def _decode(self) -> Lines:
        for name, version, payload in self._carried["parts"]:
            part = _PARTS.get(name)
            if part is None or part.version != version:
                yield f"it takes over the section {name} of version {part.version if part else 'none'}, not {version}"
                continue
            try:
                self._parts[name] = decode(payload)
            except CommandError as error:
                yield f"the section {name}: {error.message}"
        yield from (f"the section {name} is missing" for name in _PARTS if name not in self._parts)

    def _unlike_memory(self) -> Lines:
        own = {
            (bar.declared.label, row.offset): row.size
            for bar in without_file(self._device)
            for row in bar.declared.windows
        }
        given = {(label, offset): len(data) for label, offset, data in self._carried["memory"]}
        for label, offset in sorted({place for place, _ in own.items() ^ given.items()}):
            yield f"{label} has other memory at {offset:#x}"

    def _unlike_files(self) -> Lines:
        own = {
            (bar.declared.label, offset): one for bar in self._device.bars.values() for offset, one in bar.files.items()
        }
        given = {(label, offset): one.fd for label, offset, one in self._carried["files"]}
        for label, offset in sorted(own.keys() | given.keys()):
            file, fd = own.get((label, offset)), given.get((label, offset))
            if file is None or fd is None or _size(fd) != len(file.memory):
                yield f"{label} has another file for its memory at {offset:#x}"
            else:
                self._files.append((file, fd))

    def _unlike_bells(self) -> Lines:
        own = [place_of(region, one) for region, one in bells(self._device)]
        for place, (ring, *shadows) in self._carried["bells"]:
            sizes = [_size(one.fd) for one in shadows]
            if place not in own or not is_eventfd(ring.fd) or sizes != [SHADOW_BYTES] * place[-1]:
                yield f"BAR{place[0]}+{place[1]:#x} has no such eventfd, and the client rings it"

    def _unlike_card(self) -> Lines:
        card, data = self._device.card, self._carried["card"]
        if data is None or card is None:
            return
        self._card = decode(data)
        yield from _unlike_states(card, self._card)

    def _unlike_migration(self) -> Lines:
        if self._carried["migration_state"] not in list(MigrationState):
            yield f"there is no migration state {self._carried['migration_state']}"
        try:
            self._streams = self._migration.adopt(self._carried["migration"], self._kept)
        except CommandError as error:
            yield f"the stream that a client is writing: {error.message}"

    # -- taking

    def acquire(self) -> None:
        """Gets everything that there might not be enough of. CommandError, with the errno of that."""
        try:
            for file, fd in self._files:
                mmap(fd, len(file.memory)).close()
            for at, (_, fds) in enumerate(self._carried["bells"]):
                ring = os.dup(fds[0].fd)
                self._kept.callback(os.close, ring)
                shadow = Backing.of(fds[1].fd) if len(fds) > 1 else None
                if shadow is not None:
                    self._kept.callback(shadow.close)
                self._bells[at] = ring, shadow
        except OSError as error:
            text = f"{self._device.name} cannot take over: {error.strerror}"
            raise CommandError(error.errno or errno.EIO, text) from error

    def put(self) -> None:
        """Sets the device. Carried files come last: until then its windows are its own memory."""
        device, carried = self._device, self._carried
        self._migration.stand_still()
        device.lose_state(memory=False)
        for label, offset, data in carried["memory"]:
            self._window(label, offset)[:] = data
        for name, part in _PARTS.items():
            part.put(device, self._parts[name])
        device.gate.refused = carried["refused"]
        if device.card is not None:
            vars(device.card).update(self._card)
        device.migration_state = MigrationState(carried["migration_state"])
        self._streams()
        self._put_bells()
        try:
            self._step("its memory cannot be mapped", self._put_files)
            self._step("on_load() failed", device.on_load)
        except MigrationError as error:
            device.migration_state = error.state
            raise

    def _step(self, what: str, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:
            raise MigrationError(errno.EIO, f"{self._device.name}: {what}: {error}") from error

    def _put_files(self) -> None:
        for file, fd in self._files:
            file.become(fd)

    def _put_bells(self) -> None:
        own = [(place_of(region, one), one) for region, one in bells(self._device)]
        for at, (place, _) in enumerate(self._carried["bells"]):
            one = next(one for there, one in own if there == place)
            one.adopt(*self._bells[at])

    def _window(self, label: str, offset: int) -> memoryview:
        (bar,) = [bar for bar in self._device.bars.values() if bar.declared.label == label]
        (row,) = [row for row in bar.declared.windows if row.offset == offset]
        return bar.windows[row.index]

    @property
    def _migration(self) -> DeviceMigration:
        assert self._device.migration is not None  # check_portable
        return self._device.migration


def _must_be_fresh(device: PciDevice) -> None:
    used = device.client is not None or any(file.shared for bar in device.bars.values() for file in bar.files.values())
    if used or any(one.descriptors() for _, one in bells(device)):
        raise LocalError(f"{device.name} must take over before a client is attached, and once")


def _unlike_states(card: Card, saved: Carried) -> Lines:
    for name, value in saved.items():
        state = card.states.get(name)
        if state is None:
            yield f"the card {card.name} has no State {name}"
        elif not state.fits(value):
            yield f"the card's State {name} must be {type(state.default).__name__}, not {type(value).__name__}"


def _size(fd: int) -> int:
    """Bytes of a file; -1: it is none."""
    try:
        return os.fstat(fd).st_size
    except OSError:
        return -1
