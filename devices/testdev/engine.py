"""testdev's DMA engine: a job that moves memory in pieces, so that it can be held, saved and continued."""

import asyncio
import errno

from vfuserver import DmaError, KiB, LocalError, MiB, PciDevice, Register, State, job

IDLE, BUSY, DONE, FAILED = 0, 1, 2, 0x8000_0000
COPY, TO_BUFFER, FROM_BUFFER, FILL = 1, 2, 3, 4
RAISE_WHEN_DONE = 0x100
DONE_VECTOR = 1
BUFFER_SIZE = 64 * KiB
LONGEST = {COPY: 64 * MiB, FILL: 64 * MiB, TO_BUFFER: BUFFER_SIZE, FROM_BUFFER: BUFFER_SIZE}
PIECE = 256 * KiB


class DmaEngine(PciDevice, abstract=True):
    """The engine; the class that derives from it declares the registers named here."""

    dma_source: Register
    dma_destination: Register
    dma_length: Register
    dma_status: Register
    scratch: Register

    buffer = State(bytearray(BUFFER_SIZE), doc="the internal buffer")
    moved = State(0, doc="bytes that the running command has moved")

    def start_engine(self, command: int) -> None:
        """Starts a command. While one runs the status says EBUSY and the running one goes on."""
        if self.engine.running:
            self.dma_status = FAILED | errno.EBUSY
            return
        self.dma_status = BUSY
        self.moved = 0
        self.engine.start(command, self.dma_source, self.dma_destination, self.dma_length, self.scratch & 0xFF)

    @job
    async def engine(self, command: int, source: int, destination: int, length: int, fill: int) -> None:
        """One command, from wherever `moved` stands."""
        try:
            self.check(command & ~RAISE_WHEN_DONE, source, destination, length)
            while self.moved < length:
                count = min(PIECE, length - self.moved)
                await self.move(command & ~RAISE_WHEN_DONE, source + self.moved, destination + self.moved, count, fill)
                self.moved += count
                await asyncio.sleep(0)
        except DmaError as error:
            self.dma_status = FAILED | error.errno
            return
        self.dma_status = DONE
        if command & RAISE_WHEN_DONE:
            self.raise_checked(DONE_VECTOR)

    def check(self, kind: int, source: int, destination: int, length: int) -> None:
        """DmaError(EINVAL) for a command or a length that there is not."""
        if length > LONGEST.get(kind, -1):
            raise DmaError(errno.EINVAL, f"no DMA command {kind:#x} of {length:#x} bytes")
        start = {TO_BUFFER: destination, FROM_BUFFER: source}.get(kind, 0)
        if kind in (TO_BUFFER, FROM_BUFFER) and start + length > BUFFER_SIZE:
            raise DmaError(errno.EINVAL, f"{start:#x} + {length:#x} is beyond the buffer")

    async def move(self, kind: int, source: int, destination: int, count: int, fill: int) -> None:
        """One piece."""
        if kind == TO_BUFFER:
            self.buffer[destination : destination + count] = await self.dma.read(source, count)
        elif kind == FROM_BUFFER:
            await self.dma.write(destination, self.buffer[source : source + count])
        elif kind == FILL:
            await self.dma.write(destination, bytes([fill]) * count)
        else:
            await self.dma.write(destination, await self.dma.read(source, count))

    def raise_checked(self, vector: int) -> None:
        """Raises a vector; one that the armed index does not have is the guest's mistake and is logged."""
        try:
            self.interrupt(vector)
        except LocalError as error:
            self.log.warning("%s: %s", self.name, error)
