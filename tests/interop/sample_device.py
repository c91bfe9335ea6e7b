"""A device of the shape that libvfio-user's sample client expects (its server sample stopped serving that shape).

BAR0: one 8-byte register; writing a time (seconds of the epoch) asks for INTx then, reading gives the seconds since.
BAR1: 12 KiB of memory whose first and last page may be mapped. COMMAND is never written and no BAR is ever sized.

BAR1 goes ahead in PRE_COPY, and is never all zeros: the client wants 12 KiB then, and 12 to 13 KiB when the device has
stopped (test_sample_device counts them).

After INTx it writes 4 KiB of the client's memory and reads them back. The client answers four DMA_WRITE and four
DMA_READ of the 1 KiB that it accepts, then looks whether the first two pages it has mapped are dirty.
"""

import errno
import random
import time

from vfuserver import Bar, DmaError, Intx, KiB, PciDevice, PciIdentity, job, timer

PAGE = 4 * KiB
PAGES = 32
"""So many pages from IOVA 0 on the client maps at first; it unmaps the first half before it migrates the device."""
PATTERN = random.Random(PAGE).randbytes(PAGE)


class Sample(PciDevice):
    """What `client` of libvfio-user's samples talks to."""

    identity = PciIdentity(vendor=0xDEAD, device=0xBEEF, subsystem_vendor=0xCAFE, subsystem=0xBABE)
    decodes_always = True
    masters_always = True
    intx = Intx()

    clock = Bar(0, size=8, sized=False)
    moment = clock.rw(0, width=8)
    buffers = Bar(1, size=3 * PAGE, sized=False, backing=True, streamed=True, mappable=[(0, PAGE), (2 * PAGE, PAGE)])
    memory = buffers.memory(0, 3 * PAGE)

    def on_reset(self) -> None:
        """A stream does not carry zeros."""
        self.memory[:] = PATTERN * 3

    @moment.on_write
    def arm(self, moment: int) -> None:
        """Asks for the interrupt, in whole seconds as the sample's own server does: `client` asks for the next one, and
        takes a DMA message that comes before it has read this register back for the reply."""
        self.alarm.start(after=float(max(0, moment - int(time.time()))))

    @moment.on_read
    def elapsed(self) -> int:
        """Seconds since that moment; negative, in two's complement, before it."""
        return int(time.time()) - self.moment & 0xFFFF_FFFF_FFFF_FFFF

    @timer
    def alarm(self) -> None:
        """The moment has come."""
        self.intx.raise_()
        if not self.exchange.running:
            self.exchange.start()

    @job
    async def exchange(self) -> None:
        """Writes the pattern over the border of the first two pages that are mapped, and compares what it reads."""
        for border in range(PAGE, PAGES * PAGE, PAGE):
            iova = border - PAGE // 2
            if await self.written(iova):
                assert await self.dma.read(iova, PAGE) == PATTERN, f"{iova:#x}+{PAGE:#x} must read as it was written"
                return

    async def written(self, iova: int) -> bool:
        """False where not all of it is mapped; no byte has moved then."""
        try:
            await self.dma.write(iova, PATTERN)
        except DmaError as error:
            if error.errno != errno.EFAULT:
                raise
            return False
        return True
