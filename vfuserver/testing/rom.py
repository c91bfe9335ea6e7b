"""Expansion ROMs for tests: images that firmware recognises, with nothing in them that a BIOS would run."""

import struct
from typing import Final

from vfuserver.pci.option_rom import DATA_POINTER, DATA_SIGNATURE, LAST_IMAGE, SIGNATURE, UNIT

_DATA_AT: Final = 0x1C
_DATA: Final = struct.Struct("<4sHHHHB3sHHBBHHH")
_REVISION: Final = 3
_EFI: Final = 3
"""A code type that no BIOS runs."""


def rom_image(vendor: int, device: int, *, units: int = 1, last: bool = True, others: tuple[int, ...] = ()) -> bytes:
    """One image of `units` times 512 bytes for a function; `others` are further devices that it supports."""
    content = bytearray(index * 7 & 0xFF for index in range(units * UNIT))
    content[: len(SIGNATURE)] = SIGNATURE
    struct.pack_into("<H", content, DATA_POINTER, _DATA_AT)
    ids = vendor, device, _DATA.size if others else 0
    described = units, 1, _EFI, LAST_IMAGE if last else 0
    _DATA.pack_into(content, _DATA_AT, DATA_SIGNATURE, *ids, _DATA.size, _REVISION, bytes(3), *described, 0, 0, 0)
    struct.pack_into(f"<{len(others) + 1}H", content, _DATA_AT + _DATA.size, *others, 0)
    return bytes(content)
