"""What a client has seen of a device and relies on for as long as it is connected: as plain data, and what differs.

It must not know what a device remembers, nor how it gets from process to process.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from vfuserver.vfio import IrqFlags, MigrationFlags, PciRegion, RegionFlags

if TYPE_CHECKING:
    from vfuserver.device.bar import BoundBar
    from vfuserver.device.pci_device import PciDevice
    from vfuserver.pci.block import Block
    from vfuserver.vfio import Region

Seen = Mapping[str, Any]
Lines = Iterator[str]

_REGION: Final = {"size": int, "flags": int, "file": bool, "areas": [(int, int, bool, int)]}
_BAR: Final = {"kind": str, "prefetchable": bool, "backing": object, "memory": [(int, int)]}
SHAPE: Final = {
    "compatible": str,
    "function": frozenset((None, int)),
    "options": {str: object},
    "rom": int,
    "regions": [_REGION],
    "bars": {str: _BAR},
    "irqs": [(int, int)],
    "migration": int,
    "blocks": [(str, int, int)],
    "config": bytes,
}
"""Of seen()."""

_IRQS: Final = ("INTx", "MSI", "MSI-X", "ERR", "REQ")
_LINKS: Final = frozenset({"next", "capabilities"})
"""Fields that only say where the next capability lies."""


def seen(device: PciDevice) -> dict[str, Any]:
    """What a device shows."""
    config = device.config
    return {
        "compatible": device.compatible or device.device_name,
        "function": None if device.card is None else device.function_number,
        "options": {name: getattr(device, name) for name in device.declaration.options},
        "rom": 0 if device.rom_image is None else zlib.crc32(device.rom_image.content),
        "regions": [_region(region) for region in device.regions],
        "bars": {bar.declared.label: _bar(bar) for bar in device.bars.values()},
        "irqs": [[irq.count, int(irq.flags)] for irq in device.irqs],
        "migration": 0 if device.migration is None else int(device.migration.flags),
        "blocks": [[block.name, block.start, block.length] for block in (config.header, *config.capabilities)],
        "config": config.reset_image,
    }


def differences(device: PciDevice, was: Seen) -> list[str]:
    """What a client would see otherwise than seen() told of another device, a line each."""
    own = seen(device)
    blocks = (device.config.header, *device.config.capabilities)
    kept = [block for block in blocks if [block.name, block.start, block.length] in was["blocks"]]
    lines = [line for compare in _COMPARED for line in compare(own, was)]
    return lines + [line for block in kept for line in _fields(block, own["config"], was["config"])]


def _region(region: Region) -> dict[str, Any]:
    areas = [[area.offset, area.size, area.fd >= 0, area.fd_offset] for area in region.areas]
    return {"size": region.size, "flags": int(region.flags), "file": region.fd >= 0, "areas": areas}


def _bar(bar: BoundBar) -> dict[str, Any]:
    declared = bar.declared
    return {
        "kind": declared.place.kind.name,
        "prefetchable": declared.place.prefetchable,
        "backing": declared.backing,
        "memory": [[row.offset, row.size] for row in declared.windows],
    }


def _identity(own: Seen, was: Seen) -> Lines:
    yield from _line("it is a", own["compatible"], was["compatible"])
    yield from _line("its function on the card is", own["function"], was["function"])
    for name in sorted(own["options"].keys() & was["options"].keys()):
        yield from _line(f"option {name} is", repr(own["options"][name]), repr(was["options"][name]))


def _regions(own: Seen, was: Seen) -> Lines:
    for index, (here, there) in enumerate(zip(own["regions"], was["regions"], strict=False)):
        label = PciRegion(index).name
        if here["size"] != there["size"]:
            yield f"{label} has {here['size']} bytes, was {there['size']}"
        elif here["flags"] != there["flags"]:
            yield from _line(f"{label} is", RegionFlags(here["flags"]).name, RegionFlags(there["flags"]).name)
        elif (here["file"], here["areas"]) != (there["file"], there["areas"]):
            yield from _line(f"{label} can be mapped", _areas(here), _areas(there))
    if own["rom"] != was["rom"]:
        yield f"ROM has other bytes: their CRC is {own['rom']:#010x}, was {was['rom']:#010x}"


def _bars(own: Seen, was: Seen) -> Lines:
    for label in sorted(own["bars"].keys() & was["bars"].keys()):
        here, there = own["bars"][label], was["bars"][label]
        yield from (
            line for what in ("kind", "prefetchable", "backing") for line in _bar_line(label, what, here, there)
        )
        yield from _line(f"{label} has memory", _spans(here["memory"]), _spans(there["memory"]))


def _bar_line(label: str, what: str, here: Seen, there: Seen) -> Lines:
    yield from _line(f"{label}: {what} is", here[what], there[what])


def _interrupts(own: Seen, was: Seen) -> Lines:
    for name, (count, flags), (counted, flagged) in zip(_IRQS, own["irqs"], was["irqs"], strict=False):
        if count != counted:
            yield f"interrupts: {name} has {count} vectors, was {counted}"
        elif flags != flagged:
            yield from _line(f"interrupts: {name} is", IrqFlags(flags).name, IrqFlags(flagged).name)


def _migration(own: Seen, was: Seen) -> Lines:
    yield from _line("migration offers", *(MigrationFlags(one["migration"]).name for one in (own, was)))


def _capabilities(own: Seen, was: Seen) -> Lines:
    for name, start, length in (block for block in own["blocks"] if block not in was["blocks"]):
        yield f"configuration space has {name} at {start:#x} ({length} bytes), was without it"
    for name, start, length in (block for block in was["blocks"] if block not in own["blocks"]):
        yield f"configuration space has no {name} at {start:#x} ({length} bytes), was with it"


def _fields(block: Block, own: bytes, was: bytes) -> Lines:
    """What never changes of one capability, or the header."""
    end = block.start + block.length
    for field in block.layout:
        here, there = (field.load(image[block.start : end]) for image in (own, was))
        if (here ^ there) & field.load(block.layout.constant) and field.name not in _LINKS:
            what = field.name if block.start == 0 else f"{block.name} {field.name}"
            digits = 2 + 2 * field.width
            yield f"{what.replace('_', ' ')} is {here:#0{digits}x}, was {there:#0{digits}x}"


_COMPARED: Final[tuple[Callable[[Seen, Seen], Lines], ...]] = (
    _identity,
    _regions,
    _bars,
    _interrupts,
    _migration,
    _capabilities,
)


def _line(what: str, own: object, was: object) -> Lines:
    if own != was:
        yield f"{what} {own}, was {was}"


def _areas(region: Seen) -> str:
    return _spans([area[:2] for area in region["areas"]]) if region["areas"] or not region["file"] else "everywhere"


def _spans(spans: list[list[int]]) -> str:
    return " and ".join(f"at {offset:#x}+{size:#x}" for offset, size in spans) or "nowhere"
