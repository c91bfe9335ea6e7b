"""The guest's side: a complete vfio-user client in asyncio, for tools, tests and benchmarks. Re-exports only.

It works against any vfio-user server and knows nothing of ours.
"""

from vfuserver.client.base import OWN_PROPOSAL, QEMU_PROPOSAL, TWIN_PROPOSAL
from vfuserver.client.channel import Channel, Reply
from vfuserver.client.client import Client
from vfuserver.client.dirty_log import dirty_ranges
from vfuserver.client.errors import DisconnectedError, ReplyTimeoutError
from vfuserver.client.guest_memory import GuestMap, GuestMemory
from vfuserver.client.info import DeviceInfo, IrqInfo, RegionInfo
from vfuserver.client.interrupt import Interrupt
from vfuserver.client.io_fds import IoFd, RegionIoFds
from vfuserver.client.migration_commands import AT_ONCE, PrecopyInfo

__all__ = [
    "AT_ONCE",
    "OWN_PROPOSAL",
    "QEMU_PROPOSAL",
    "TWIN_PROPOSAL",
    "Channel",
    "Client",
    "DeviceInfo",
    "DisconnectedError",
    "GuestMap",
    "GuestMemory",
    "Interrupt",
    "IoFd",
    "IrqInfo",
    "PrecopyInfo",
    "RegionInfo",
    "RegionIoFds",
    "Reply",
    "ReplyTimeoutError",
    "dirty_ranges",
]
