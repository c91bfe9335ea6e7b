"""One vector of a device, at the client's end: an eventfd that the server signals."""

import asyncio
import os
from typing import Self


class Interrupt:
    """An eventfd for one vector of one interrupt index. `fd` is what SET_IRQS carries."""

    def __init__(self, index: int, vector: int) -> None:
        self.index = index
        self.vector = vector
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def take(self) -> int:
        """How often it was signalled since it was last looked at; 0 if not at all."""
        try:
            return os.eventfd_read(self.fd)
        except BlockingIOError:
            return 0

    async def wait(self, timeout: float | None = None) -> int:
        """Waits until it is signalled and returns how often. TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            while True:
                count = self.take()
                if count:
                    return count
                await self._readable()

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self.fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(self.fd)

    def close(self) -> None:
        """Closes the eventfd. Idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
