"""What libvfio-user cannot do, refused before anything listens: the reason, and what to do. Data first, then who asks.

What only a client's doing decides is refused at the call; what differs all the same is in docs/libvfio-user.md. It must
not load the library.
"""

from dataclasses import fields
from typing import Final

from vfuserver.engine.listen import Listener, is_listening
from vfuserver.errors import UsageError
from vfuserver.session.options import SessionOptions
from vfuserver.vfio import PCI_NUM_IRQS, PCI_NUM_REGIONS, Backend, DeviceFlags

INSTEAD: Final = "leave --engine out, or"

OPTIONS: Final = {
    "max_msg_fds": "always says 8",
    "max_data_xfer_size": "always says 1 MiB",
    "max_dma_bytes": "asks nobody before it takes a client's memory",
    "pgsizes": "does not check what a map is aligned to",
    "write_multiple": "does not know REGION_WRITE_MULTI",
    "twin_socket": "opens a twin socket for whoever proposes one",
}
"""Session options whose defaults only can be had, with what the library does."""

QUIRKS: Final = {
    "message-dma": "knows the specification's layout of DMA messages only",
    "sparse-mmap-fds": "gives one descriptor for a region",
    "private-memory": "maps clients' files unasked, and does not show them",
    "mig-data-read": "answers MIG_DATA_READ itself, with the bytes that there are",
}
"""Quirks, likewise."""


def check(backend: Backend, options: SessionOptions, listener: Listener) -> None:
    """UsageError: this device, with these options, cannot be served by libvfio-user as it is by the default engine."""
    for reason in (*_of_options(options), *_of_the_device(backend), *_of_the_socket(listener)):
        raise UsageError(f"{backend.name}: libvfio-user {reason}")


def _of_options(options: SessionOptions) -> list[str]:
    default = SessionOptions()
    told = [
        f"{reason}: {INSTEAD} drop {one.name.replace('_', '-')}"
        for one in fields(options)
        if (reason := OPTIONS.get(one.name)) and getattr(options, one.name) != getattr(default, one.name)
    ]
    told += [
        f"{reason}: {INSTEAD} drop the quirk {name}"
        for name, reason in QUIRKS.items()
        if options.quirks[name] != default.quirks[name]
    ]
    if options.migration not in ("v2", "none"):
        told.append(f"has no region of migration's version 1: {INSTEAD} say --migration v2 or none")
    return told


def _of_the_device(backend: Backend) -> list[str]:
    told = []
    for index, region in enumerate(backend.regions):
        if region.capabilities:
            told.append(
                f"tells of no capabilities, and region {index} has {len(region.capabilities)}: leave --engine out"
            )
    if len(backend.regions) > PCI_NUM_REGIONS or len(backend.irqs) > PCI_NUM_IRQS:
        told.append(
            f"knows {PCI_NUM_REGIONS} regions and {PCI_NUM_IRQS} interrupt indexes, no more: leave --engine out"
        )
    if backend.device_flags != DeviceFlags.PCI | DeviceFlags.RESET:
        told.append(f"says of every device that it is PCI and can be reset, not {backend.device_flags!r}")
    return told


def _of_the_socket(listener: Listener) -> list[str]:
    if is_listening(listener.socket):
        return []
    return ["accepts connections itself and takes no connected socket: give --fd a listening one, or --socket PATH"]
