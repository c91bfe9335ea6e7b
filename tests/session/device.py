"""A small real device for the session's tests: tables of the core, a callable, a memfd, everything a Backend has."""

import errno
import mmap
import os
from collections.abc import Callable
from typing import Any

from vfuserver import _core
from vfuserver._core import Gate, Layout, Table
from vfuserver.errors import CommandError
from vfuserver.vfio import (
    ABSENT,
    Backend,
    Client,
    Irq,
    IrqFlags,
    Later,
    MmapArea,
    PciIrq,
    PciRegion,
    Region,
    RegionFlags,
    ResetReason,
)

RW = RegionFlags.READ | RegionFlags.WRITE
ALL4 = 0xFFFF_FFFF

SCRATCH, COUNTER, SLOW, FAILING, RAISE, ODD = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14
"""Registers of BAR0: plain; a read hook; answered later; its hook raises; write: MSI-X vector; returns nonsense."""


def _row(offset: int, flags: int = 0) -> tuple[int, int, int, bytes, int, int, int, int, int, int]:
    return (offset, 4, 1, bytes(4), ALL4, 0, ALL4, 0, 0, flags)


LAYOUT = Layout(
    4096,
    [
        _row(SCRATCH),
        _row(COUNTER, _core.READ_HOOK),
        _row(SLOW, _core.READ_HOOK | _core.WRITE_HOOK),
        _row(FAILING, _core.READ_HOOK | _core.WRITE_HOOK),
        _row(RAISE, _core.WRITE_HOOK),
        _row(ODD, _core.READ_HOOK),
    ],
)
CONFIG = Layout(256, [(0, 1, 256, bytes(range(256)), 0xFF, 0, 0xFF, 0, 0, _core.MEMORY)])

AREAS = (MmapArea(0x1000, 0x2000), MmapArea(0x8000, 0x8000))


class LittleDevice(Backend):
    """BAR0 registers, BAR1 a callable, BAR2 mappable in AREAS, BAR3 mappable as a whole, configuration space."""

    name = "little"

    def __init__(self) -> None:
        self.gate = Gate(Gate.RUNNING | Gate.MASTER | Gate.MEMORY | Gate.IO)
        self.client: Client | None = None
        self.log: list[object] = []
        self.reads = 0
        self.later: Later | None = None
        self.reset_later: Later | None = None
        self.on_reset: Callable[[], None] | None = None
        self.fd = os.memfd_create("little-bar")
        os.ftruncate(self.fd, 0x20000)
        self._memory = mmap.mmap(self.fd, 0x10000)
        hooks: dict[int, tuple[Callable[..., Any] | None, Callable[..., Any] | None]] = {
            1: (self._count, None),
            2: (self._slow, self._slow),
            3: (self._fail, self._fail),
            4: (None, self._raise),
            5: (lambda: "nonsense", None),
        }
        whole = Layout(0x10000, [(0, 1, 0x10000, b"", 0xFF, 0, 0xFF, 0, 0, _core.MEMORY)])
        self.regions = [ABSENT] * 9
        self.regions[0] = Region(4096, RW, table=Table(LAYOUT, hooks, gate=self.gate), waits=("slow",))
        self.regions[1] = Region(64, RW, access=self._access)
        self.regions[2] = Region(
            0x10000, RW, table=Table(whole, memory={0: self._memory}), fd=self.fd, fd_offset=0, areas=AREAS
        )
        self.regions[3] = Region(
            0x10000, RW, table=Table(whole, memory={0: self._memory}), fd=self.fd, fd_offset=0x10000
        )
        self.regions[PciRegion.CONFIG] = Region(256, RW, table=Table(CONFIG))
        self.irqs = [
            Irq(1, IrqFlags.EVENTFD | IrqFlags.MASKABLE | IrqFlags.AUTOMASKED),
            Irq(4, IrqFlags.EVENTFD | IrqFlags.NORESIZE),
            Irq(40, IrqFlags.EVENTFD | IrqFlags.MASKABLE),
            Irq(1, IrqFlags.EVENTFD),
            Irq(),
        ]

    # -- hooks

    def _count(self) -> int:
        self.reads += 1
        return self.reads

    def _slow(self, value: int | None = None) -> Later:
        self.later = Later(f"slow register ({value})", on_cancel=lambda: self.log.append("cancelled"))
        return self.later

    def _fail(self, value: int | None = None) -> int:
        if value == 1:
            raise CommandError(errno.EBUSY, "as asked")
        raise RuntimeError("a hook went wrong")

    def _raise(self, value: int) -> None:
        assert self.client is not None
        self.log.append(("trigger", self.client.interrupts.trigger(PciIrq.MSIX, value)))

    def _access(self, offset: int, count: int, data: bytes | None) -> bytes | None:
        self.log.append(("access", offset, count, data))
        return None if data is not None else bytes([offset]) * count

    # -- Backend

    def attach(self, client: Client) -> None:
        self.client = client
        self.log.append("attach")

    def detach(self) -> None:
        self.client = None
        self.log.append("detach")

    def reset(self, reason: ResetReason) -> Later | None:
        self.log.append(reason)
        if self.on_reset:
            self.on_reset()
        return self.reset_later

    def interrupts_ready(self, index: int, start: int, count: int) -> None:
        self.log.append(("ready", index, start, count))

    def describe_access(self, region: int, offset: int) -> str:
        return f"BAR{region}+{offset:#x}"

    def close(self) -> None:
        """Idempotent: an engine closes what it serves, and so does a fixture."""
        self.regions = []
        if not self._memory.closed:
            self._memory.close()
            os.close(self.fd)
