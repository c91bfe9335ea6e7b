"""PCI configuration space: declarations, accesses, capabilities. Re-exports only.

The capabilities themselves are imported from `vfuserver.pci.caps.<name>`; the registry is `capability.registered()`.
What shows a configuration space (`describe`) is imported from its own module: no server needs it.
"""

from vfuserver.pci.bar import BarKind, BarLayout, RomLayout
from vfuserver.pci.block import Block, Write
from vfuserver.pci.capability import AnyCapability, Capability, ExtendedCapability, registered
from vfuserver.pci.config_space import ConfigSpace
from vfuserver.pci.fields import Field
from vfuserver.pci.header import InterruptPin, Status
from vfuserver.pci.identity import PciIdentity
from vfuserver.pci.port import ENABLES, Command, ConfigPort, GatePort, PowerState
from vfuserver.pci.walk import Link, walk, walk_extended

__all__ = [
    "ENABLES",
    "AnyCapability",
    "BarKind",
    "BarLayout",
    "Block",
    "Capability",
    "Command",
    "ConfigPort",
    "ConfigSpace",
    "ExtendedCapability",
    "Field",
    "GatePort",
    "InterruptPin",
    "Link",
    "PciIdentity",
    "PowerState",
    "RomLayout",
    "Status",
    "Write",
    "registered",
    "walk",
    "walk_extended",
]
