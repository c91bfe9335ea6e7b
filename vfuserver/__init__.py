"""vfuserver: PCI devices in Python, outside QEMU. The public API, re-exports only.

    from vfuserver import Bar, PciDevice, PciIdentity

Names are imported when they are first asked for (PEP 562), so that `import vfuserver` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vfuserver.device.address_space import AddressSpace
    from vfuserver.device.bar import Bar, BoundBar, GiB, KiB, MiB
    from vfuserver.device.card import Card, Function
    from vfuserver.device.describe import describe
    from vfuserver.device.dma import Dma
    from vfuserver.device.doorbell import Doorbell
    from vfuserver.device.intx import Intx, IntxLine
    from vfuserver.device.job import job
    from vfuserver.device.loader import list_devices, load, load_model
    from vfuserver.device.option import Option
    from vfuserver.device.pci_device import PciDevice
    from vfuserver.device.rom import Rom
    from vfuserver.device.state import State
    from vfuserver.device.suggest import suggest
    from vfuserver.device.timer import timer
    from vfuserver.errors import (
        CommandError,
        DeclarationError,
        DmaError,
        LocalError,
        PeerError,
        UsageError,
        VfuserverError,
    )
    from vfuserver.iommu.views import View
    from vfuserver.pci.bar import BarKind, BarLayout
    from vfuserver.pci.caps.access_control import AccessControl, AcsService
    from vfuserver.pci.caps.address_translation import AddressTranslation
    from vfuserver.pci.caps.advanced_error_reporting import AdvancedErrorReporting, CorrectableError, UncorrectableError
    from vfuserver.pci.caps.advanced_features import AdvancedFeatures
    from vfuserver.pci.caps.designated_vendor_specific import DesignatedVendorSpecific
    from vfuserver.pci.caps.device_serial_number import DeviceSerialNumber
    from vfuserver.pci.caps.latency_tolerance import LatencyTolerance
    from vfuserver.pci.caps.msi import Msi
    from vfuserver.pci.caps.msi_x import MsiX
    from vfuserver.pci.caps.page_request import PageRequest
    from vfuserver.pci.caps.pci_express import PciExpress
    from vfuserver.pci.caps.power_management import PowerManagement
    from vfuserver.pci.caps.process_address_space import ProcessAddressSpace
    from vfuserver.pci.caps.resizable_bar import BarSize, ResizableBar
    from vfuserver.pci.caps.single_root_iov import SingleRootIov
    from vfuserver.pci.caps.tph_requester import TphRequester, TphTable
    from vfuserver.pci.caps.vendor_specific import VendorSpecific
    from vfuserver.pci.caps.vendor_specific_extended import VendorSpecificExtended
    from vfuserver.pci.caps.vital_product_data import VitalProductData
    from vfuserver.pci.error_report import ErrorMessage
    from vfuserver.pci.identity import PciIdentity
    from vfuserver.registers.memory import MemoryWindow
    from vfuserver.registers.policy import COUNTER, RC, RESERVED, RO, RW, W1C, W1S, WO, Policy, Reads, Writes
    from vfuserver.registers.register import Register, RegisterArray
    from vfuserver.vfio.backend import Backend, Client, Memory, ResetReason
    from vfuserver.vfio.later import Later

__version__ = "0.1.0"

_HOMES = {
    "vfuserver.device.address_space": ("AddressSpace",),
    "vfuserver.device.bar": ("Bar", "BoundBar", "GiB", "KiB", "MiB"),
    "vfuserver.device.card": ("Card", "Function"),
    "vfuserver.device.describe": ("describe",),
    "vfuserver.device.dma": ("Dma",),
    "vfuserver.device.doorbell": ("Doorbell",),
    "vfuserver.device.intx": ("Intx", "IntxLine"),
    "vfuserver.device.job": ("job",),
    "vfuserver.device.loader": ("list_devices", "load", "load_model"),
    "vfuserver.device.option": ("Option",),
    "vfuserver.device.pci_device": ("PciDevice",),
    "vfuserver.device.rom": ("Rom",),
    "vfuserver.device.state": ("State",),
    "vfuserver.device.suggest": ("suggest",),
    "vfuserver.device.timer": ("timer",),
    "vfuserver.errors": (
        "CommandError",
        "DeclarationError",
        "DmaError",
        "LocalError",
        "PeerError",
        "UsageError",
        "VfuserverError",
    ),
    "vfuserver.iommu.views": ("View",),
    "vfuserver.pci.bar": ("BarKind", "BarLayout"),
    "vfuserver.pci.caps.access_control": ("AccessControl", "AcsService"),
    "vfuserver.pci.caps.address_translation": ("AddressTranslation",),
    "vfuserver.pci.caps.advanced_error_reporting": ("AdvancedErrorReporting", "CorrectableError", "UncorrectableError"),
    "vfuserver.pci.caps.advanced_features": ("AdvancedFeatures",),
    "vfuserver.pci.caps.designated_vendor_specific": ("DesignatedVendorSpecific",),
    "vfuserver.pci.caps.device_serial_number": ("DeviceSerialNumber",),
    "vfuserver.pci.caps.latency_tolerance": ("LatencyTolerance",),
    "vfuserver.pci.caps.msi": ("Msi",),
    "vfuserver.pci.caps.msi_x": ("MsiX",),
    "vfuserver.pci.caps.page_request": ("PageRequest",),
    "vfuserver.pci.caps.pci_express": ("PciExpress",),
    "vfuserver.pci.caps.power_management": ("PowerManagement",),
    "vfuserver.pci.caps.process_address_space": ("ProcessAddressSpace",),
    "vfuserver.pci.caps.resizable_bar": ("BarSize", "ResizableBar"),
    "vfuserver.pci.caps.single_root_iov": ("SingleRootIov",),
    "vfuserver.pci.caps.tph_requester": ("TphRequester", "TphTable"),
    "vfuserver.pci.caps.vendor_specific": ("VendorSpecific",),
    "vfuserver.pci.caps.vendor_specific_extended": ("VendorSpecificExtended",),
    "vfuserver.pci.caps.vital_product_data": ("VitalProductData",),
    "vfuserver.pci.error_report": ("ErrorMessage",),
    "vfuserver.pci.identity": ("PciIdentity",),
    "vfuserver.registers.memory": ("MemoryWindow",),
    "vfuserver.registers.policy": (
        "COUNTER",
        "RC",
        "RESERVED",
        "RO",
        "RW",
        "W1C",
        "W1S",
        "WO",
        "Policy",
        "Reads",
        "Writes",
    ),
    "vfuserver.registers.register": ("Register", "RegisterArray"),
    "vfuserver.vfio.backend": ("Backend", "Client", "Memory", "ResetReason"),
    "vfuserver.vfio.later": ("Later",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "COUNTER",
    "RC",
    "RESERVED",
    "RO",
    "RW",
    "W1C",
    "W1S",
    "WO",
    "AccessControl",
    "AcsService",
    "AddressSpace",
    "AddressTranslation",
    "AdvancedErrorReporting",
    "AdvancedFeatures",
    "Backend",
    "Bar",
    "BarKind",
    "BarLayout",
    "BarSize",
    "BoundBar",
    "Card",
    "Client",
    "CommandError",
    "CorrectableError",
    "DeclarationError",
    "DesignatedVendorSpecific",
    "DeviceSerialNumber",
    "Dma",
    "DmaError",
    "Doorbell",
    "ErrorMessage",
    "Function",
    "GiB",
    "Intx",
    "IntxLine",
    "KiB",
    "LatencyTolerance",
    "Later",
    "LocalError",
    "Memory",
    "MemoryWindow",
    "MiB",
    "Msi",
    "MsiX",
    "Option",
    "PageRequest",
    "PciDevice",
    "PciExpress",
    "PciIdentity",
    "PeerError",
    "Policy",
    "PowerManagement",
    "ProcessAddressSpace",
    "Reads",
    "Register",
    "RegisterArray",
    "ResetReason",
    "ResizableBar",
    "Rom",
    "SingleRootIov",
    "State",
    "TphRequester",
    "TphTable",
    "UncorrectableError",
    "UsageError",
    "VendorSpecific",
    "VendorSpecificExtended",
    "VfuserverError",
    "View",
    "VitalProductData",
    "Writes",
    "describe",
    "job",
    "list_devices",
    "load",
    "load_model",
    "suggest",
    "timer",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'vfuserver' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
