"""What a device hands over: everything that it is, as plain data with Descriptors. Nothing of it changes by that.

It must not know what a device that takes it over makes of it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from vfuserver.device.handover.seen import seen
from vfuserver.device.migration.parts import DEVICE, PARTS
from vfuserver.errors import CommandError, LocalError
from vfuserver.plain import Descriptor, encode

if TYPE_CHECKING:
    from vfuserver.device.bar import BoundBar
    from vfuserver.device.bound_doorbell import BoundDoorbell
    from vfuserver.device.pci_device import PciDevice

FORMAT: Final = 1


def check_portable(device: PciDevice) -> None:
    """CommandError(ENOTSUP): it has state that nobody knows of."""
    if device.migration is None:
        raise CommandError(
            errno.ENOTSUP,
            f"{device.name} cannot be handed over to another process: its class says migrates = False, so it has state "
            "that it does not declare; declare that (State, registers, jobs), or stop the server and start it again",
        )
    if device.card is not None and (names := device.card.undeclared()):
        raise CommandError(
            errno.ENOTSUP,
            f"{device.name} cannot be handed over to another process: its card has {', '.join(names)}, which "
            f"{type(device.card).__name__} does not declare; declare each as State, or as a cached_property if it can "
            "be made anew",
        )


def hand_over(device: PciDevice) -> dict[str, Any]:
    """All of a device that is paused. CommandError: EIO (its own on_save() failed, or a State is no plain data)."""
    check_portable(device)
    assert device.migration is not None
    if not device.migration.paused:
        raise LocalError(f"{device.name}: pause() it first")
    try:
        device.on_save()
        parts = [[part.name, part.version, encode(part.save(device))] for part in PARTS if part is not DEVICE]
        card = card_state(device)
    except Exception as error:
        raise CommandError(errno.EIO, f"{device.name} cannot be handed over: {error}") from error
    return {
        "format": FORMAT,
        "seen": seen(device),
        "parts": parts,
        "card": card,
        "memory": [
            [bar.declared.label, row.offset, bytes(bar.windows[row.index])]
            for bar in without_file(device)
            for row in bar.declared.windows
        ],
        "files": [
            [bar.declared.label, offset, Descriptor(file.fd)]
            for bar in device.bars.values()
            for offset, file in bar.files.items()
        ],
        "bells": [
            [place_of(region, event), [Descriptor(fd) for fd in event.descriptors()]]
            for region, event in bells(device)
            if event.descriptors()
        ],
        "refused": device.gate.refused,
        "migration_state": int(device.migration_state),
        "migration": device.migration.carry(),
    }


def card_state(device: PciDevice) -> bytes | None:
    """What the card remembers, with function 0 of it."""
    card = device.card
    if card is None or device.function_number != 0:
        return None
    return encode({name: state.saved(vars(card)[name], card.name) for name, state in card.states.items()})


def without_file(device: PciDevice) -> list[BoundBar]:
    """The BARs whose memory, if they have any, is this process's own."""
    return [bar for bar in device.bars.values() if not bar.declared.backing]


def bells(device: PciDevice) -> list[tuple[int, BoundDoorbell]]:
    """Every doorbell, with the index of its region."""
    return [(bar, one) for bar in device.bars for one in device.io_events.in_bar(bar)]


def place_of(region: int, event: BoundDoorbell) -> list[Any]:
    """What a client knows a doorbell by."""
    return [region, event.offset, event.size, event.match, event.shadow]
