"""A migration driven by hand: arcs, reads and writes of a device's own `Migration`, no wire."""

import asyncio
from itertools import pairwise

from vfuserver import PciDevice
from vfuserver.device.migration import DeviceMigration
from vfuserver.vfio import MigrationFlags, MigrationState

S = MigrationState
AHEAD = (S.RUNNING, S.PRE_COPY, S.PRE_COPY_P2P, S.STOP_COPY)
STOPPED_FIRST = (S.RUNNING, S.RUNNING_P2P, S.STOP, S.STOP_COPY)
LOAD = (S.RUNNING, S.RUNNING_P2P, S.STOP, S.RESUMING)
START = (S.RESUMING, S.STOP, S.RUNNING_P2P, S.RUNNING)
PIECE = 1 << 20


def migration(device: PciDevice) -> DeviceMigration:
    """The device's side."""
    assert device.migration is not None
    return device.migration


async def go(device: PciDevice, *states: MigrationState) -> None:
    """One direct arc after the other."""
    for old, new in pairwise(states):
        later = migration(device).arc(old, new)
        if later is not None:
            ended = asyncio.get_running_loop().create_future()
            later.when_done(ended.set_result)
            result = await ended
            if isinstance(result, Exception):
                raise result


def read_all(device: PciDevice, size: int = PIECE) -> bytes:
    """What there is of the stream now."""
    return b"".join(iter(lambda: migration(device).read(size), b""))


async def save(device: PciDevice, size: int = PIECE) -> bytes:
    """The whole stream of a device that runs; it is in STOP_COPY afterwards."""
    await go(device, *STOPPED_FIRST)
    return read_all(device, size)


def feed(device: PciDevice, data: bytes, size: int = PIECE) -> None:
    """Writes a stream in pieces of `size`."""
    for at in range(0, len(data), size):
        migration(device).write(data[at : at + size])


async def load(device: PciDevice, data: bytes, size: int = PIECE) -> None:
    """Loads a device that runs; it is in STOP afterwards."""
    await go(device, *LOAD)
    feed(device, data, size)
    await go(device, S.RESUMING, S.STOP)


def has_precopy(device: PciDevice) -> bool:
    """True if memory of it goes ahead."""
    return MigrationFlags.PRE_COPY in migration(device).flags
