"""A device of the shape that libvfio-user's sample client expects (its server sample stopped serving that shape).

BAR0: one 8-byte register; writing a time (seconds of the epoch) asks for INTx then, reading gives the seconds since.
BAR1: 12 KiB of memory whose first and last page may be mapped. COMMAND is never written and no BAR is ever sized.
"""

import time

from vfuserver import Bar, Intx, KiB, PciDevice, PciIdentity, timer

PAGE = 4 * KiB


class Sample(PciDevice):
    """What `client` of libvfio-user's samples talks to."""

    identity = PciIdentity(vendor=0xDEAD, device=0xBEEF, subsystem_vendor=0xCAFE, subsystem=0xBABE)
    decodes_always = True
    masters_always = True
    intx = Intx()

    clock = Bar(0, size=8, sized=False)
    moment = clock.rw(0, width=8)
    buffers = Bar(1, size=3 * PAGE, sized=False, backing=True, mappable=[(0, PAGE), (2 * PAGE, PAGE)])
    memory = buffers.memory(0, 3 * PAGE)

    @moment.on_write
    def arm(self, moment: int) -> None:
        """Asks for the interrupt."""
        self.alarm.start(after=max(0.0, moment - time.time()))

    @moment.on_read
    def elapsed(self) -> int:
        """Seconds since that moment; negative, in two's complement, before it."""
        return int(time.time()) - self.moment & 0xFFFF_FFFF_FFFF_FFFF

    @timer
    def alarm(self) -> None:
        """The moment has come."""
        self.intx.raise_()
