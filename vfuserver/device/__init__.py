"""What a device author writes against, and what tools ask of device classes. Re-exports only.

What shows a class (`describe`) is imported from its own module: no server needs it.
"""

from vfuserver.device.address_space import AddressSpace
from vfuserver.device.bar import Bar, BoundBar, GiB, KiB, MiB
from vfuserver.device.card import Card, Function
from vfuserver.device.dma import Dma
from vfuserver.device.doorbell import Doorbell
from vfuserver.device.intx import Intx, IntxLine
from vfuserver.device.job import BoundJob, Job, job
from vfuserver.device.loader import Listed, list_devices, load, load_compatible, load_model
from vfuserver.device.model import Model, function_classes, function_names, options_of, power_on
from vfuserver.device.option import Option
from vfuserver.device.pci_device import PciDevice
from vfuserver.device.rom import Rom
from vfuserver.device.state import State
from vfuserver.device.suggest import suggest
from vfuserver.device.timer import BoundTimer, Timer, timer

__all__ = [
    "AddressSpace",
    "Bar",
    "BoundBar",
    "BoundJob",
    "BoundTimer",
    "Card",
    "Dma",
    "Doorbell",
    "Function",
    "GiB",
    "Intx",
    "IntxLine",
    "Job",
    "KiB",
    "Listed",
    "MiB",
    "Model",
    "Option",
    "PciDevice",
    "Rom",
    "State",
    "Timer",
    "function_classes",
    "function_names",
    "job",
    "list_devices",
    "load",
    "load_compatible",
    "load_model",
    "options_of",
    "power_on",
    "suggest",
    "timer",
]
