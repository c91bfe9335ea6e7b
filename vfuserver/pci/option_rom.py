"""What is inside an expansion ROM, as far as firmware looks before it runs one (PCI 3.0, 6.3.1; PCI Firmware 3.0, 5.1).

A ROM is a list of images, each with a header (55 aa) and a PCI data structure ("PCIR") that says for which function it
is. A ROM may hold anything: what firmware would not run is a complaint, never an error. It must not know files.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from vfuserver.pci.identity import PciIdentity

SIGNATURE: Final = b"\x55\xaa"
DATA_SIGNATURE: Final = b"PCIR"
DATA_POINTER: Final = 0x18
UNIT: Final = 512
"""Bytes in which an image's length is counted."""
LAST_IMAGE: Final = 0x80

_POINTER: Final = struct.Struct("<H")
_DATA: Final = struct.Struct("<4sHHHHB3sHHBB")
"""Signature, vendor, device, list of devices, length, revision, class code, image length, its revision, type, last."""
_DEVICE: Final = struct.Struct("<H")


@dataclass(frozen=True, slots=True)
class Image:
    """One image: where it starts, and the function that it is for; `devices` are all that it supports."""

    offset: int
    vendor: int
    devices: tuple[int, ...]


class _BrokenError(Exception):
    """The list of images ends here, in the way that the text says."""


def complaints(content: bytes, identity: PciIdentity) -> list[str]:
    """Why firmware would not run what is in `content` for the function `identity`; [] if it would."""
    found = []
    try:
        for image in _images(content):
            if image.vendor != identity.vendor or identity.device not in image.devices:
                ids = ", ".join(f"{image.vendor:04x}:{device:04x}" for device in image.devices)
                found.append(
                    f"the image at {image.offset:#x} is for {ids}, not {identity.vendor:04x}:{identity.device:04x}"
                )
    except _BrokenError as broken:
        found.append(str(broken))
    return found


def _images(content: bytes) -> Iterator[Image]:
    start, last = 0, False
    while not last:
        if content[start : start + len(SIGNATURE)] != SIGNATURE:
            begins = content[start : start + len(SIGNATURE)].hex(" ") or "nothing"
            raise _BrokenError(f"the image at {start:#x} must start with 55 aa, not {begins}")
        at = start + _unpack(_POINTER, content, start + DATA_POINTER)[0]
        signature, vendor, device, listed, _, _, _, length, _, _, indicator = _unpack(_DATA, content, at)
        if signature != DATA_SIGNATURE:
            raise _BrokenError(f"the image at {start:#x} must have PCIR at {at:#x}, not {signature.hex(' ')}")
        if length == 0:
            raise _BrokenError(f"the image at {start:#x} must have a length, not 0")
        yield Image(start, vendor, (device, *(_listed(content, at + listed) if listed else ())))
        start, last = start + length * UNIT, bool(indicator & LAST_IMAGE)


def _listed(content: bytes, at: int) -> Iterator[int]:
    """The other devices that an image supports, up to the 0 that ends their list."""
    while device := _unpack(_DEVICE, content, at)[0]:
        yield device
        at += _DEVICE.size


def _unpack(layout: struct.Struct, content: bytes, at: int) -> tuple[Any, ...]:
    if at + layout.size > len(content):
        raise _BrokenError(f"what should be at {at:#x} lies beyond the ROM's {len(content):#x} bytes")
    return layout.unpack_from(content, at)
