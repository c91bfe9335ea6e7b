"""The questions of `vfuserver probe` and their answers as plain data, ready for JSON.

Everything goes over the wire through `vfuserver.client`, so any server will do. Replies are not trusted: a refused
question is part of the result. It must not know how the result is shown.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any

from vfuserver.cli._table import flags
from vfuserver.client import Client, DisconnectedError, ReplyTimeoutError
from vfuserver.errors import CommandError, VfuserverError
from vfuserver.pci import registered, walk, walk_extended
from vfuserver.pci.capability import ExtendedCapability
from vfuserver.vfio import DeviceFlags, PciIrq, PciRegion

HEADER = 0x40
MOST_INDEXES = 256
"""More regions or interrupts than that no device has; a server may say any number."""


async def probe(socket: Path, timeout: float) -> dict[str, Any]:
    """Asks the server at `socket` for all it tells; `timeout` is in seconds, for each reply.

    VfuserverError: nobody listens there, it is busy, or its replies make no sense.
    """
    async with connected(socket, timeout) as client:
        return await ask(client, socket)


@asynccontextmanager
async def connected(socket: Path, timeout: float) -> AsyncIterator[Client]:
    """A client that has negotiated. VfuserverError: nobody listens at `socket`, or the server is busy."""
    async with await Client.open(socket, timeout=timeout) as client:
        try:
            await client.negotiate()
        except (DisconnectedError, ReplyTimeoutError) as error:
            hint = "a server takes one client at a time: is the device in use?"
            raise VfuserverError(f"{socket}: {error} ({hint})") from error
        yield client


async def ask(client: Client, socket: Path) -> dict[str, Any]:
    """The same of a client that has negotiated."""
    info = await client.device_info()
    pci = bool(info.flags & DeviceFlags.PCI)
    image = await _config_space(client) if pci and info.num_regions > PciRegion.CONFIG else b""
    major, minor = client.version or (0, 0)
    return {
        "socket": str(socket),
        "version": f"{major}.{minor}",
        "capabilities": dict(client.offered),
        "device": {"flags": flags(info.flags), "regions": info.num_regions, "irqs": info.num_irqs},
        "regions": [await _region(client, index, pci) for index in range(min(info.num_regions, MOST_INDEXES))],
        "irqs": [await _irq(client, index, pci) for index in range(min(info.num_irqs, MOST_INDEXES))],
        "pci": _identity(image) if len(image) >= HEADER else None,
        "config_space": image.hex(),
    }


async def _config_space(client: Client) -> bytes:
    try:
        return await client.config_space()
    except CommandError as error:
        logging.getLogger("vfuserver.cli").warning("configuration space cannot be read: %s", error)
        return b""


async def _region(client: Client, index: int, pci: bool) -> dict[str, Any]:
    known: dict[str, Any] = {"index": index, "name": _name(PciRegion, index) if pci else ""}
    try:
        region = await client.region_info(index)
    except CommandError as error:
        return {**known, "error": str(error)}
    return {
        **known,
        "size": region.size,
        "flags": flags(region.flags),
        "descriptor": region.fd >= 0,
        "offset": region.offset,
        "areas": [{"offset": area.offset, "size": area.size} for area in region.areas],
    }


async def _irq(client: Client, index: int, pci: bool) -> dict[str, Any]:
    known: dict[str, Any] = {"index": index, "name": _name(PciIrq, index) if pci else ""}
    try:
        irq = await client.irq_info(index)
    except CommandError as error:
        return {**known, "error": str(error)}
    return {**known, "count": irq.count, "flags": flags(irq.flags)}


def _name(kind: type[IntEnum], index: int) -> str:
    return next((one.name for one in kind if one == index), "")


def _identity(image: bytes) -> dict[str, Any]:
    """Who the function says it is, and its capabilities by name."""

    def number(offset: int, width: int) -> int:
        return int.from_bytes(image[offset : offset + width], "little")

    links = [(link, False) for link in walk(image)] + [(link, True) for link in walk_extended(image)]
    names = {(one.id, issubclass(one, ExtendedCapability)): one.__name__ for one in registered()}
    return {
        "vendor": number(0x00, 2),
        "device": number(0x02, 2),
        "revision": image[0x08],
        "class_code": number(0x09, 3),
        "subsystem_vendor": number(0x2C, 2),
        "subsystem": number(0x2E, 2),
        "capabilities": [
            {
                "offset": link.offset,
                "id": link.id,
                "name": names.get((link.id, extended), ""),
                "extended": extended,
                "version": link.version,
            }
            for link, extended in links
        ],
    }
