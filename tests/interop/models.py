"""Devices that raw clients are shown where testdev has not the shape that a requirement speaks of."""

import mmap
import sys
import threading
from pathlib import Path
from typing import Any

from vfuserver import (
    RO,
    AdvancedFeatures,
    Bar,
    DmaError,
    GiB,
    KiB,
    Msi,
    Option,
    PciDevice,
    PciExpress,
    PciIdentity,
    PowerManagement,
    VendorSpecific,
    VitalProductData,
)
from vfuserver.pci.header import Status
from vfuserver.vfio import MigrationFlags

VENDOR = 0x1234
VPD_CONTENT, VPD_WRITABLE_FROM = b"read-only!!!free", 12
VENDOR_LENGTH, VENDOR_BODY = 16, 3
PIECES = 16
IOVA = 0x10000
SWITCH_INTERVAL = 0.0001
"""Seconds: many more ways for a thread to fall between two steps of another."""


class Conventional(PciDevice):
    """No PCI Express: 256 bytes of configuration space, AF, VPD, and BARs from 4 bytes to 8 GiB.

    BAR2 tells how many pieces of writes the vendor-specific capability has seen, and offset << 8 | length of each.
    """

    identity = PciIdentity(VENDOR, 0x0010)
    capabilities = (
        AdvancedFeatures(),
        VitalProductData(VPD_CONTENT, writable_from=VPD_WRITABLE_FROM),
        VendorSpecific(VENDOR_LENGTH, writable=b"\xff" * (VENDOR_LENGTH - VENDOR_BODY)),
    )
    large = Bar(0, size=8 * GiB, bits=64, prefetchable=True)
    seen = Bar(2, size=128)
    count = seen.ro(0)
    pieces = seen.array(4, RO, count=PIECES)
    prefetchable = Bar(3, size=64 * KiB, prefetchable=True)
    scratch = prefetchable.rw(0)
    errors = prefetchable.wo(4)
    smallest_ports = Bar(4, size=4, io=True)
    largest_ports = Bar(5, size=256, io=True)

    @errors.on_write
    def err(self, bits: int) -> None:
        """Shows errors in STATUS."""
        self.config.report_errors(Status(bits))

    def on_vendor_write(self, offset: int, data: bytes) -> None:
        """Writes it down."""
        self.pieces[self.count] = offset << 8 | len(data)
        self.count += 1


class Msi32(PciDevice):
    """MSI of 10 bytes."""

    identity = PciIdentity(VENDOR, 0x0011)
    capabilities = (Msi(4, address64=False, maskable=False),)


class Msi64(PciDevice):
    """MSI of 14 bytes."""

    identity = PciIdentity(VENDOR, 0x0012)
    capabilities = (Msi(4, address64=True, maskable=False),)


class Msi32Masked(PciDevice):
    """MSI of 20 bytes."""

    identity = PciIdentity(VENDOR, 0x0013)
    capabilities = (Msi(4, address64=False, maskable=True),)


class Msi64Masked(PciDevice):
    """MSI of 24 bytes."""

    identity = PciIdentity(VENDOR, 0x0014)
    capabilities = (Msi(4, address64=True, maskable=True),)


class Moving(PciDevice):
    """Migrates; a load of state in which `broken` is not 0 ends in ERROR."""

    identity = PciIdentity(VENDOR, 0x0016)
    compatible = "moving"
    decodes_always = True
    control = Bar(0, size=4 * KiB)
    broken = control.rw(0)

    def on_load(self) -> None:
        """As a model whose state cannot be made from what was loaded."""
        if self.broken:
            raise ValueError(f"broken is {self.broken}")


class MovingAhead(Moving):
    """With pre-copy."""

    frames = Bar(2, size=4 * KiB, backing=True, streamed=True)
    pixels = frames.memory(0, 4 * KiB)


class WithoutPeers(Moving):
    """Without P2P states, which our devices have all by themselves."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        assert self.migration
        self.migration.flags &= ~MigrationFlags.P2P


class AheadWithoutPeers(MovingAhead, WithoutPeers):
    """Both."""


class Writer(PciDevice):
    """A thread of its own writes ever new bytes to client memory at IOVA, as many at a time as was written to `start`.

    What it managed is in the file `counts`, which no register stands before: writes done, writes refused, 8 bytes each.
    """

    identity = PciIdentity(VENDOR, 0x0015)
    capabilities = (PowerManagement(no_soft_reset=True), PciExpress(flr=True))
    counts = Option(str, "", "a file of 16 bytes")
    control = Bar(0, size=4 * KiB)
    start = control.wo(0)

    @start.on_write
    def begin(self, length: int) -> None:
        """One more thread; it ends with the process."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        threading.Thread(target=self.write_on, args=(length,), daemon=True).start()

    def write_on(self, length: int) -> None:
        """What the thread does."""
        with Path(self.counts).open("r+b") as file:
            counts = memoryview(mmap.mmap(file.fileno(), 16)).cast("Q")
        while True:
            try:
                self.dma.write_now(IOVA, bytes([counts[0] + 1 & 0xFF]) * length)
                counts[0] += 1
            except DmaError:
                counts[1] += 1
