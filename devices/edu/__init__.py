"""QEMU's educational device, out of process: identification, factorial, interrupts, DMA (docs/specs/edu in QEMU)."""

from vfuserver import Bar, DmaError, Intx, MiB, Msi, Option, PciDevice, PciIdentity, State, job

COMPUTING, INTERRUPT_WHEN_COMPUTED = 0x01, 0x80
FACTORIAL_DONE, DMA_DONE = 0x001, 0x100
RUN, TO_RAM, INTERRUPT_WHEN_MOVED = 0x1, 0x2, 0x4
BUFFER, BUFFER_SIZE = 0x40000, 4096
ALWAYS_ZERO = 34
"""From 34! on a factorial has 32 factors of two: modulo 2**32 it is 0."""


class Edu(PciDevice):
    """Registers below 0x80 are accessed with 4 bytes only, the others with 4 or 8."""

    identity = PciIdentity(vendor=0x1234, device=0x11E8, revision=0x10, class_code=0x00FF00)
    capabilities = (Msi(vectors=1, maskable=False),)
    intx = Intx(pin="A")

    dma_mask = Option(int, (1 << 28) - 1, "addresses that the DMA engine can reach, as a mask")

    buffer = State(bytearray(BUFFER_SIZE), doc="what DMA reads and writes at 0x40000")

    mmio = Bar(0, size=1 * MiB)
    identification = mmio.ro(0x00, reset=0x0100_00ED, strict=True, doc="0xRRrr00ed: major and minor version")
    liveness = mmio.rw(0x04, strict=True, doc="reads as the inverse of what was written")
    factorial = mmio.rw(0x08, strict=True, doc="write n, read n! when bit 0 of status is clear")
    status = mmio.rw(0x20, bits=INTERRUPT_WHEN_COMPUTED, strict=True, doc="0x01 computing; 0x80 interrupt when done")
    interrupt_status = mmio.ro(0x24, strict=True, doc="what raised the interrupt")
    interrupt_raise = mmio.wo(0x60, strict=True, doc="raises these bits of interrupt status")
    interrupt_acknowledge = mmio.wo(0x64, strict=True, doc="clears these bits of interrupt status")
    dma_source = mmio.rw(0x80, width=8)
    dma_destination = mmio.rw(0x88, width=8)
    dma_count = mmio.rw(0x90, width=8, doc="bytes")
    dma_command = mmio.rw(0x98, width=8, doc="1 start; 2 from buffer to RAM; 4 interrupt 0x100 when done")

    @liveness.on_write
    def invert(self, value: int) -> int:
        """What is read back is the inverse."""
        return ~value & 0xFFFF_FFFF

    @factorial.on_write
    def start_computing(self, value: int) -> int:
        """A number to compute; one that comes too early is dropped."""
        if self.status & COMPUTING:
            return self.factorial
        self.status |= COMPUTING
        self.compute.start(value)
        return value

    @job
    async def compute(self, number: int) -> None:
        """n! modulo 2**32."""
        result = 1
        for factor in range(2, min(number, ALWAYS_ZERO) + 1):
            result = result * factor & 0xFFFF_FFFF
        self.factorial = result
        self.status &= ~COMPUTING
        if self.status & INTERRUPT_WHEN_COMPUTED:
            self.signal(FACTORIAL_DONE)

    @interrupt_raise.on_write
    def signal(self, bits: int) -> None:
        """Sets bits of the interrupt status; the interrupt is raised while any is set."""
        self.interrupt_status |= bits
        if self.interrupt_status:
            self.interrupt()

    @interrupt_acknowledge.on_write
    def acknowledge(self, bits: int) -> None:
        """Clears bits of the interrupt status; the line falls with the last one."""
        self.interrupt_status &= ~bits
        if not self.interrupt_status:
            self.intx.lower()

    @dma_source.on_write
    def set_source(self, value: int) -> int:
        """The engine's registers do not change while it runs."""
        return self.dma_source if self.transfer.running else value

    @dma_destination.on_write
    def set_destination(self, value: int) -> int:
        """As the source."""
        return self.dma_destination if self.transfer.running else value

    @dma_count.on_write
    def set_count(self, value: int) -> int:
        """As the source."""
        return self.dma_count if self.transfer.running else value

    @dma_command.on_write
    def start_dma(self, command: int) -> int:
        """A command without RUN, or one that comes too early, is dropped."""
        if self.transfer.running or not command & RUN:
            return self.dma_command
        self.transfer.start(command, self.dma_source, self.dma_destination, self.dma_count)
        return command

    @job
    async def transfer(self, command: int, source: int, destination: int, count: int) -> None:
        """Moves bytes between the client's memory and the buffer."""
        try:
            if command & TO_RAM:
                await self.dma.write(destination & self.dma_mask, self.buffer[self.in_buffer(source, count)])
            else:
                place = self.in_buffer(destination, count)
                self.buffer[place] = await self.dma.read(source & self.dma_mask, count)
        except (DmaError, ValueError) as error:
            self.log.warning("%s: DMA of %d bytes failed: %s", self.name, count, error)
        self.dma_command = command & ~RUN
        if command & INTERRUPT_WHEN_MOVED:
            self.signal(DMA_DONE)

    @staticmethod
    def in_buffer(address: int, count: int) -> slice:
        """The buffer's bytes at an address of the device. ValueError beyond it."""
        start = address - BUFFER
        if start < 0 or start + count > BUFFER_SIZE:
            raise ValueError(f"{address:#x} + {count:#x} is not in the buffer at {BUFFER:#x}")
        return slice(start, start + count)
