"""A device handed from one object to another as if they were two processes: the data is bytes and duplicated
descriptors on the way, and nothing of the old device is left when the new one goes on."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vfuserver import PciDevice
from vfuserver.plain import decode, encode
from vfuserver.testing.local_client import LocalClient, LocalInterrupts, LocalMemory
from vfuserver.vfio import Later


async def done(later: Later | None) -> None:
    """Waits for what was asked for."""
    if later is None:
        return
    ended = asyncio.get_running_loop().create_future()
    later.when_done(ended.set_result)
    result = await ended
    if isinstance(result, Exception):
        raise result


@contextmanager
def carried(device: PciDevice) -> Iterator[Any]:
    """What a paused device hands over, as it arrives in another process."""
    fds: list[int] = []
    data = encode(device.hand_over(), fds)
    arrived = [os.dup(fd) for fd in fds]
    try:
        yield decode(data, arrived)
    finally:
        for fd in arrived:
            os.close(fd)


def taken(before: PciDevice, after: PciDevice) -> None:
    """`after` goes on as the paused `before`, which is closed; nobody is attached yet."""
    with carried(before) as data:
        after.take_over(data)
    before.close()


async def succeeded(before: PciDevice, after: PciDevice) -> None:
    """`after` runs as `before`, which has no client."""
    await done(before.pause())
    taken(before, after)
    after.resume()


def reconnected(client: LocalClient, after: PciDevice, memory: LocalMemory | None = None) -> LocalClient:
    """The same client at another object of its device: the same eventfds, and what SET_IRQS has masked."""
    other = LocalClient(after)
    other.memory = memory or other.memory
    other.interrupts, client.interrupts = client.interrupts, LocalInterrupts()
    client.close()
    after.attach(other)
    return other
