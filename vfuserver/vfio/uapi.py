"""Constants of VFIO as the vfio-user protocol carries them (linux/vfio.h; vfio-user specification, Commands).

Numbers and names only; no behaviour.
"""

from enum import IntEnum, IntFlag


class DeviceFlags(IntFlag):
    """VFIO_DEVICE_FLAGS_*: `flags` of DEVICE_GET_INFO."""

    RESET = 1 << 0
    PCI = 1 << 1


class RegionFlags(IntFlag):
    """VFIO_REGION_INFO_FLAG_*: `flags` of DEVICE_GET_REGION_INFO."""

    READ = 1 << 0
    WRITE = 1 << 1
    MMAP = 1 << 2
    CAPS = 1 << 3


class IrqFlags(IntFlag):
    """VFIO_IRQ_INFO_*: `flags` of DEVICE_GET_IRQ_INFO."""

    EVENTFD = 1 << 0
    MASKABLE = 1 << 1
    AUTOMASKED = 1 << 2
    NORESIZE = 1 << 3


class IrqSetFlags(IntFlag):
    """VFIO_IRQ_SET_*: `flags` of DEVICE_SET_IRQS: exactly one DATA bit and one ACTION bit."""

    DATA_NONE = 1 << 0
    DATA_BOOL = 1 << 1
    DATA_EVENTFD = 1 << 2
    ACTION_MASK = 1 << 3
    ACTION_UNMASK = 1 << 4
    ACTION_TRIGGER = 1 << 5


class IoFdType(IntEnum):
    """VFIO_USER_IO_FD_TYPE_*: how a descriptor of DEVICE_GET_REGION_IO_FDS tells of an access.

    SHADOW is libvfio-user's: an ioeventfd whose value the kernel leaves in memory. No released kernel serves it, nor
    ioregionfds.
    """

    IOEVENTFD = 0
    IOREGIONFD = 1
    SHADOW = 2


class IoEventFlags(IntFlag):
    """KVM_IOEVENTFD_FLAG_* (linux/kvm.h)."""

    DATAMATCH = 1 << 0
    PIO = 1 << 1


class PciRegion(IntEnum):
    """VFIO_PCI_*_REGION_INDEX."""

    BAR0 = 0
    BAR1 = 1
    BAR2 = 2
    BAR3 = 3
    BAR4 = 4
    BAR5 = 5
    ROM = 6
    CONFIG = 7
    VGA = 8


class PciIrq(IntEnum):
    """VFIO_PCI_*_IRQ_INDEX."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


REGION_INFO_CAP_SPARSE_MMAP = 1
"""VFIO_REGION_INFO_CAP_SPARSE_MMAP: the capability that lists mappable areas."""

REGION_INFO_CAP_SPARSE_MMAP_FDS = 0x8001
"""VFIO_REGION_INFO_CAP_SPARSE_MMAP_FDS of vfio-user: mappable areas, each with a descriptor."""

REGION_INFO_CAP_SPARSE_MMAP_FDS_DRAFT = 16
"""The same in the first versions of the proposal."""

PCI_NUM_REGIONS = 9
PCI_NUM_IRQS = 5
