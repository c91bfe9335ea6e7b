"""The contract between engines and devices: Backend, Client, regions, doorbells, interrupts, Later. Re-exports only."""

from vfuserver.vfio.backend import Backend, Client, Interrupts, Irq, Memory, ResetReason
from vfuserver.vfio.io_event import IoEvent
from vfuserver.vfio.later import ANSWERING, Later
from vfuserver.vfio.migration import Migration, MigrationError, MigrationFlags, MigrationState
from vfuserver.vfio.region import ABSENT, MmapArea, Region, RegionAccess
from vfuserver.vfio.uapi import (
    PCI_NUM_IRQS,
    PCI_NUM_REGIONS,
    REGION_INFO_CAP_SPARSE_MMAP,
    REGION_INFO_CAP_SPARSE_MMAP_FDS,
    REGION_INFO_CAP_SPARSE_MMAP_FDS_DRAFT,
    DeviceFlags,
    IoEventFlags,
    IoFdType,
    IrqFlags,
    IrqSetFlags,
    PciIrq,
    PciRegion,
    RegionFlags,
)

__all__ = [
    "ABSENT",
    "ANSWERING",
    "PCI_NUM_IRQS",
    "PCI_NUM_REGIONS",
    "REGION_INFO_CAP_SPARSE_MMAP",
    "REGION_INFO_CAP_SPARSE_MMAP_FDS",
    "REGION_INFO_CAP_SPARSE_MMAP_FDS_DRAFT",
    "Backend",
    "Client",
    "DeviceFlags",
    "Interrupts",
    "IoEvent",
    "IoEventFlags",
    "IoFdType",
    "Irq",
    "IrqFlags",
    "IrqSetFlags",
    "Later",
    "Memory",
    "Migration",
    "MigrationError",
    "MigrationFlags",
    "MigrationState",
    "MmapArea",
    "PciIrq",
    "PciRegion",
    "Region",
    "RegionAccess",
    "RegionFlags",
    "ResetReason",
]
