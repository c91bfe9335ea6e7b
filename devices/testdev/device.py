"""testdev: BARs 0 to 5, capabilities and the counter that makes it change while it runs."""

import asyncio

from vfuserver import (
    RO,
    RW,
    W1C,
    AdvancedErrorReporting,
    Bar,
    CommandError,
    DeviceSerialNumber,
    Doorbell,
    Intx,
    KiB,
    MiB,
    Msi,
    MsiX,
    Option,
    PciExpress,
    PciIdentity,
    PowerManagement,
    VendorSpecific,
    VendorSpecificExtended,
    timer,
)

from .engine import DmaEngine

BAR2_TEXT = b"vfuserver-bar2!\0"
BAR2_TEXT_AT = 0x80000
COUNTER_AT = 0x81000
COUNTER_SWITCH = 8
"""The byte of the vendor-specific capability that starts (1) and stops (0) the counter."""
LONGEST_DELAY = 3_000_000
RAISE_ERR, RAISE_REQ = 0x100, 0x101


class Testdev(DmaEngine):
    """BAR0: registers that run Python at each access. BAR1: registers that never do. BAR2: mappable memory."""

    __test__ = False  # not a test class, whatever its name suggests to pytest

    identity = PciIdentity(
        vendor=0x1234, device=0x7E57, revision=1, class_code=0xFF0000, subsystem_vendor=0x1234, subsystem=0x0001
    )
    capabilities = (
        PowerManagement(),
        Msi(vectors=4),
        MsiX(vectors=8, table_bar=4, table_offset=0, pba_offset=0x800),
        PciExpress(flr=True),
        VendorSpecific(length=16, writable=bytes(COUNTER_SWITCH - 3) + b"\xff"),
        DeviceSerialNumber(serial=0x0123_4567_89AB_CDEF),
        AdvancedErrorReporting(),
        VendorSpecificExtended(vsec_id=0x7E57, revision=1, length=16),
    )
    intx = Intx(pin="A")

    mappable = Option(bool, True, "clients may map BAR2 (no: all accesses come as messages, and QEMU posts writes)")

    hooked = Bar(0, size=4 * KiB, doc="hooked registers: each access runs Python")
    identification = hooked.ro(0x00, reset=0x5453_4554, doc='"TEST"')
    scratch = hooked.rw(0x04)
    scratch64 = hooked.rw(0x08, width=8)
    doorbell = hooked.wo(0x10, doc="each write adds 1 to doorbells")
    doorbells = hooked.ro(0x14)
    raise_vector = hooked.wo(0x18, doc="a vector; 0x100 raises ERR, 0x101 REQ")
    lower_intx = hooked.wo(0x1C)
    dma_source = hooked.rw(0x20, width=8, doc="IOVA, or offset in the buffer for command 3")
    dma_destination = hooked.rw(0x28, width=8, doc="IOVA, or offset in the buffer for command 2")
    dma_length = hooked.rw(0x30, doc="bytes, at most 64 MiB, 64 KiB where the buffer takes part")
    dma_command = hooked.wo(0x34, doc="1 copy, 2 to buffer, 3 from buffer, 4 fill; bit 8: raise vector 1 when done")
    dma_status = hooked.ro(0x38, doc="0 idle, 1 busy, 2 done, 0x80000000 + errno failed")
    error = hooked.rw(0x3C, doc="errno that accesses to may_fail fail with")
    may_fail = hooked.rw(0x40)
    delay = hooked.rw(0x44, doc="microseconds that an access to slow takes, at most 3000000")
    slow = hooked.rw(0x48, doc="answers only after the delay")
    undeclared = hooked.ro(0x4C, doc="accesses to undeclared offsets since reset")
    doorbell_by_eventfd = Doorbell(doorbell)

    plain = Bar(1, size=4 * KiB, doc="declared registers: no access runs Python")
    words = plain.array(0x000, RW, count=64)
    constants = plain.array(0x100, RO, count=64, reset=bytes(range(256)))
    events = plain.array(0x200, W1C, count=64, reset=0xFFFF_FFFF)
    masked = plain.array(0x300, RW(0x00FF_00FF), count=64, reset=0x1234_5678)
    posted = plain.counter(0x400, doc="posted doorbell: each write adds 1")

    shared = Bar(
        2,
        size=1 * MiB,
        bits=64,
        prefetchable=True,
        backing=True,
        mappable=[(0x1000, 0x3F000), (0x80000, 0x80000)],
        streamed=True,
    )
    memory = shared.memory(0, 1 * MiB, reset={BAR2_TEXT_AT: BAR2_TEXT})

    vectors = Bar(4, size=4 * KiB, doc="MSI-X table and pending bits")

    ports = Bar(5, size=256, io=True)
    port_byte = ports.rw(0x00, width=1)
    port_word = ports.rw(0x04)

    def mappable_areas(self, bar: Bar) -> tuple[tuple[int, int], ...]:
        """Nothing with `--set mappable=no`."""
        return bar.areas if self.mappable else ()

    # -- BAR0 ---------------------------------------------------------------------------------------------------

    @identification.on_read
    @scratch.on_read
    @scratch64.on_read
    @doorbell.on_read
    @doorbells.on_read
    @raise_vector.on_read
    @lower_intx.on_read
    @dma_source.on_read
    @dma_destination.on_read
    @dma_length.on_read
    @dma_command.on_read
    @dma_status.on_read
    @error.on_read
    @delay.on_read
    def stored(self) -> None:
        """The stored value."""

    @scratch.on_write
    @scratch64.on_write
    @dma_source.on_write
    @dma_destination.on_write
    @dma_length.on_write
    @error.on_write
    def store(self, _value: int) -> None:
        """Store what was written."""

    @doorbell.on_write
    def ring(self, _value: int) -> None:
        """One more."""
        self.doorbells = (self.doorbells + 1) & 0xFFFF_FFFF

    @raise_vector.on_write
    def raise_interrupt(self, value: int) -> None:
        """A vector of the armed index, INTx, ERR or REQ."""
        if value == RAISE_ERR:
            self.interrupts.error()
        elif value == RAISE_REQ:
            self.interrupts.request()
        else:
            self.raise_checked(value)

    @lower_intx.on_write
    def lower(self, _value: int) -> None:
        """De-asserts INTx."""
        self.intx.lower()

    @dma_command.on_write
    def command(self, command: int) -> None:
        """Starts the engine, or says that it is busy."""
        self.start_engine(command)

    @may_fail.on_read
    def fail_read(self) -> None:
        """Fails with the errno that was set."""
        self.fail_write(0)

    @may_fail.on_write
    def fail_write(self, _value: int) -> None:
        """As a read."""
        if self.error:
            raise CommandError(self.error, "as the error register says")

    @delay.on_write
    def set_delay(self, value: int) -> int:
        """Microseconds, three seconds at most."""
        return min(value, LONGEST_DELAY)

    @slow.on_read
    async def read_slowly(self) -> None:
        """The stored value, later."""
        await asyncio.sleep(self.delay / 1e6)

    @slow.on_write
    async def write_slowly(self, _value: int) -> None:
        """Stores what was written, later."""
        await asyncio.sleep(self.delay / 1e6)

    @undeclared.on_read
    def count_undeclared(self) -> int:
        """BAR0, BAR1 and BAR5 together."""
        return self.hooked.undeclared + self.plain.undeclared + self.ports.undeclared & 0xFFFF_FFFF

    # -- the counter --------------------------------------------------------------------------------------------

    def on_vendor_write(self, offset: int, data: bytes) -> None:
        """Byte 8 of the vendor-specific capability starts and stops the counter."""
        if not offset <= COUNTER_SWITCH < offset + len(data):
            return
        if data[COUNTER_SWITCH - offset] == 1:
            self.tick.start()
        elif data[COUNTER_SWITCH - offset] == 0:
            self.tick.stop()

    @timer(period=0.001)
    def tick(self) -> None:
        """Grows the 8 bytes at 0x81000 of BAR2."""
        place = slice(COUNTER_AT, COUNTER_AT + 8)
        count = int.from_bytes(self.memory[place], "little") + 1
        self.memory[place] = (count & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little")
