"""A descriptor that a loop watches for somebody who knows no loop. It must not know whose it is."""

import asyncio
from collections.abc import Callable


class Watching:
    """From now on, until it is cancelled; before the descriptor is closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, callback: Callable[[], None]) -> None:
        self._loop, self._fd = loop, fd
        loop.add_reader(fd, callback)

    def cancel(self) -> None:
        """Idempotent."""
        self._loop.remove_reader(self._fd)
