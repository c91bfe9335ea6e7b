"""A device in which something of everything that `inspect` shows can be going on at a time."""

import asyncio

from vfuserver import Bar, Msi, PciDevice, PciIdentity, State, job, timer


class LookedAt(PciDevice):
    identity = PciIdentity(vendor=0x1234, device=0x0426)
    capabilities = (Msi(4),)
    bar = Bar(0, size=4096)
    look = bar.rw(0x00, bits=0xFFFF_FFFF)
    vector = bar.wo(0x04)
    slow = bar.ro(0x08)
    looking = State(0)

    @look.on_write
    def start_looking(self, value: int) -> None:
        self.hold_view.start(value)
        self.late.start(after=1000)

    @vector.on_write
    def raise_vector(self, value: int) -> None:
        self.interrupt(value)

    @slow.on_read
    async def never(self) -> int:
        await asyncio.Event().wait()
        return 0

    @job
    async def hold_view(self, iova: int) -> None:
        with self.dma.pin(iova, 64):
            self.looking = 1
            await asyncio.Event().wait()

    @timer
    def late(self) -> None:
        self.looking = 0
