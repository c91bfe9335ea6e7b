"""The Single Root I/O Virtualization extended capability, SR-IOV (PCIe 5.0, 9.3.3): 64 bytes.

Declared, not served: software sees how many virtual functions there would be and may set NumVFs, the page size and the
VF BARs, but VF ENABLE is read-only 0, so none of them ever appears. QEMU drops this capability from what its guests
see.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vfuserver.pci.bar import BarKind, BarLayout
from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.checks import require_range
from vfuserver.pci.fields import BYTE, BYTE_MASK, DWORD, WORD, WORD_MASK, Field

SRIOV_ID: Final = 0x0010
SRIOV_CAPABILITIES: Final = 0x04
SRIOV_CONTROL: Final = 0x08
SRIOV_STATUS: Final = 0x0A
SRIOV_INITIAL_VFS: Final = 0x0C
SRIOV_TOTAL_VFS: Final = 0x0E
SRIOV_NUM_VFS: Final = 0x10
SRIOV_DEPENDENCY: Final = 0x12
SRIOV_FIRST_OFFSET: Final = 0x14
SRIOV_STRIDE: Final = 0x16
SRIOV_VF_DEVICE: Final = 0x1A
SRIOV_SUPPORTED_PAGES: Final = 0x1C
SRIOV_SYSTEM_PAGE: Final = 0x20
SRIOV_VF_BAR: Final = 0x24
SRIOV_MIGRATION_ARRAY: Final = 0x3C

PAGE_4K: Final = 0x0000_0001
SUPPORTED_PAGES: Final = 0x0000_0553
"""4 KiB, 8 KiB, 64 KiB, 256 KiB, 1 MiB and 4 MiB, which all functions support (9.3.3.12)."""

VARIANT_VFS: Final = 8
VARIANT_DEVICE: Final = 0x7E58
VARIANT_SIZE: Final = 0x4000


class SriovCapabilities(IntEnum):
    """+4 (9.3.3.2)."""

    VF_MIGRATION = 0x0000_0001
    ARI_PRESERVED = 0x0000_0002
    TEN_BIT_TAG = 0x0000_0004


class SriovControl(IntEnum):
    """+8 (9.3.3.3)."""

    VF_ENABLE = 0x0001
    VF_MIGRATION_ENABLE = 0x0002
    VF_MIGRATION_INTERRUPT = 0x0004
    VF_MEMORY_ENABLE = 0x0008
    ARI_HIERARCHY = 0x0010


class SriovStatus(IntEnum):
    """+0xa (9.3.3.4)."""

    VF_MIGRATION = 0x0001


@dataclass(frozen=True)
class SingleRootIov(ExtendedCapability, id=SRIOV_ID):
    """`total_vfs` virtual functions of `vf_device`, the first one `first_offset` behind this function, the next ones
    `stride` apart, each with `vf_bars`; `dependency` is this function's number unless functions depend on others."""

    total_vfs: int = 1
    vf_device: int = 0
    first_offset: int = 1
    stride: int = 1
    vf_bars: tuple[BarLayout, ...] = ()
    dependency: int = 0

    def __post_init__(self) -> None:
        for what in ("total_vfs", "vf_device", "first_offset", "stride"):
            require_range(f"SingleRootIov.{what}", getattr(self, what), 0, WORD_MASK)
        require_range("SingleRootIov.dependency", self.dependency, 0, BYTE_MASK)

    def body(self) -> Sequence[Field]:
        """Control, counts, routing, page sizes, VF BARs."""
        return (*self._control(), *self._counts(), *self._routing(), *self._pages(), *self._bars())

    def _control(self) -> Sequence[Field]:
        writable = SriovControl.VF_MEMORY_ENABLE
        return (
            Field("capabilities", SRIOV_CAPABILITIES, DWORD, bits=SriovCapabilities),
            Field("control", SRIOV_CONTROL, WORD, writable=writable, bits=SriovControl),
            Field("status", SRIOV_STATUS, WORD, bits=SriovStatus),
        )

    def _counts(self) -> Sequence[Field]:
        return (
            Field("initial_vfs", SRIOV_INITIAL_VFS, WORD, reset=self.total_vfs),
            Field("total_vfs", SRIOV_TOTAL_VFS, WORD, reset=self.total_vfs),
            Field("num_vfs", SRIOV_NUM_VFS, WORD, writable=WORD_MASK),
            Field("dependency", SRIOV_DEPENDENCY, BYTE, reset=self.dependency),
        )

    def _routing(self) -> Sequence[Field]:
        return (
            Field("first_offset", SRIOV_FIRST_OFFSET, WORD, reset=self.first_offset),
            Field("stride", SRIOV_STRIDE, WORD, reset=self.stride),
            Field("vf_device", SRIOV_VF_DEVICE, WORD, reset=self.vf_device),
        )

    def _pages(self) -> Sequence[Field]:
        return (
            Field("supported_pages", SRIOV_SUPPORTED_PAGES, DWORD, reset=SUPPORTED_PAGES),
            Field("system_page", SRIOV_SYSTEM_PAGE, DWORD, reset=PAGE_4K, writable=SUPPORTED_PAGES),
            Field("migration_array", SRIOV_MIGRATION_ARRAY, DWORD),
        )

    def _bars(self) -> Sequence[Field]:
        return tuple(bar.field("vf_bar", SRIOV_VF_BAR) for bar in self.vf_bars)

    @classmethod
    def variants(cls) -> Sequence["SingleRootIov"]:
        """Without BARs, and with a 32-bit and a 64-bit one."""
        bars = (BarLayout(0, VARIANT_SIZE), BarLayout(2, VARIANT_SIZE, BarKind.MEMORY64, prefetchable=True))
        return (cls(), cls(VARIANT_VFS, VARIANT_DEVICE, vf_bars=bars))
