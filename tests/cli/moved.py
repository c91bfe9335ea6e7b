"""A device that works by itself: what it has done is in memory that goes ahead, in the client's memory, and counted.

For tests that move it. Where the variable DIES names a step of a migration, its server ends there.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from typing import Any, Final

from vfuserver import Bar, DmaError, KiB, MiB, Option, PciDevice, PciIdentity, job, timer

PAGE: Final = 4096
PAGES: Final = 512
"""Of the client's memory."""
FRAMES: Final = 4 * MiB


class Moved(PciDevice):
    """Writes its count, again and again, a page and a byte further each time."""

    identity = PciIdentity(vendor=0x1234, device=0x0503)
    masters_always = True
    decodes_always = True
    level = Option(int, 1, "must be the same at both ends")
    bar = Bar(0, size=4 * KiB)
    done = bar.ro(0x00, doc="how often it has written")
    frames = Bar(2, size=FRAMES, bits=64, backing=True, streamed=True)
    pixels = frames.memory(0, FRAMES)

    def on_reset(self) -> None:
        self.pixels[:] = frames_at(0)
        self.look.start()

    @timer(period=0.002)
    def look(self) -> None:
        """Somebody new may be there, with memory."""
        if self.client is not None and not self.work.running:
            self.work.start()

    @job
    async def work(self) -> None:
        """Until there is no memory."""
        try:
            while True:
                count = self.done + 1
                await self.dma.write(count % PAGES * PAGE, page(count))
                self.pixels[count % FRAMES] = count % 256
                self.done = count
                await asyncio.sleep(0.0005)
        except DmaError:
            return

    def on_save(self) -> None:
        self._die("on_save")

    def check_load(self, state: Mapping[str, Any]) -> None:
        self._die("check_load")

    def _die(self, step: str) -> None:
        if os.environ.get("DIES") == step:
            os.kill(os.getpid(), signal.SIGKILL)


def page(count: int) -> bytes:
    """What is written at that count."""
    return count.to_bytes(8, "little") * (PAGE // 8)


def memory_at(count: int) -> bytes:
    """The client's memory when so much was done."""
    first = max(1, count - PAGES + 1)
    pages = {one % PAGES: page(one) for one in range(first, count + 1)}
    return b"".join(pages.get(number, bytes(PAGE)) for number in range(PAGES))


def frames_at(count: int) -> bytes:
    """The frames then."""
    frames = bytearray(b"\xa5" * FRAMES)
    for one in range(1, count + 1):
        frames[one % FRAMES] = one % 256
    return bytes(frames)
