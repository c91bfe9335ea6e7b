"""The expansion ROM of a device: a file's bytes behind the ROM's base address register and VFIO's region 6.

The region answers while memory decoding is enabled, whatever bit 0 of the register says: that bit keeps a bus from
having two answers at one address, and nothing shares region 6. Linux's vfio-pci reads a ROM that is disabled, too, and
clients rely on it: QEMU keeps the register to itself and reads the whole ROM once, when the guest first looks at it.
It must not know sessions.
"""

from __future__ import annotations

import errno
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vfuserver._core import Gate
from vfuserver.errors import CommandError, DeclarationError
from vfuserver.pci.bar import ROM_SMALLEST, RomLayout
from vfuserver.pci.identity import PciIdentity
from vfuserver.pci.option_rom import complaints
from vfuserver.vfio import Region, RegionAccess, RegionFlags

UNPROGRAMMED: Final = b"\xff"


@dataclass(frozen=True, slots=True)
class Rom:
    """`rom = Rom("boot.rom")` in a device's class body. A relative path is relative to the file of the class.

    `size` in bytes is a power of two from 2 KiB to 16 MiB, by default the smallest that the file fits in.
    """

    file: str | Path
    size: int | None = None

    def load(self, folder: Path, where: str) -> RomImage:
        """Reads the file. DeclarationError, which starts with `where`: it cannot be read, is empty, or does not fit."""
        path = folder / self.file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DeclarationError(f"{where}: {path} must be a file that can be read: {error.strerror}") from error
        if not content:
            raise DeclarationError(f"{where}: {path} must have at least one byte, not 0")
        layout = RomLayout(self.size or max(1 << (len(content) - 1).bit_length(), ROM_SMALLEST))
        if len(content) > layout.size:
            raise DeclarationError(f"{where}: {path} must have at most {layout.size} bytes, not {len(content)}")
        return RomImage(path, content, layout)


@dataclass(frozen=True, slots=True)
class RomImage:
    """What is in a device's ROM, read once."""

    path: Path
    content: bytes
    layout: RomLayout

    def region(self, gate: Gate) -> Region:
        """What the contract says about it: READ and nothing else, so that a write is EINVAL (S2.14)."""
        return Region(self.layout.size, RegionFlags.READ, access=self._access(gate))

    def warn(self, identity: PciIdentity, device: str, log: logging.Logger) -> None:
        """Tells the log why firmware would not run it."""
        for complaint in complaints(self.content, identity):
            log.warning("%s: firmware will not run the expansion ROM %s: %s", device, self.path, complaint)

    def _access(self, gate: Gate) -> RegionAccess:
        content = self.content.ljust(self.layout.size, UNPROGRAMMED)

        def access(offset: int, count: int, data: bytes | None) -> bytes | None:
            if data is not None:
                raise CommandError(errno.EINVAL, "the expansion ROM is read-only")
            if gate.word & Gate.MEMORY:
                return content[offset : offset + count]
            gate.refused += 1
            return UNPROGRAMMED * count

        return access
