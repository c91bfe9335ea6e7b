"""What a device author writes against, and what tools ask of device classes. Re-exports only."""

from vfuserver.device.bar import Bar, BoundBar, GiB, KiB, MiB
from vfuserver.device.describe import describe
from vfuserver.device.dma import Dma
from vfuserver.device.doorbell import Doorbell
from vfuserver.device.intx import Intx, IntxLine
from vfuserver.device.job import BoundJob, Job, job
from vfuserver.device.loader import Listed, list_devices, load
from vfuserver.device.option import Option
from vfuserver.device.pci_device import PciDevice
from vfuserver.device.state import State
from vfuserver.device.suggest import suggest
from vfuserver.device.timer import BoundTimer, Timer, timer

__all__ = [
    "Bar",
    "BoundBar",
    "BoundJob",
    "BoundTimer",
    "Dma",
    "Doorbell",
    "GiB",
    "Intx",
    "IntxLine",
    "Job",
    "KiB",
    "Listed",
    "MiB",
    "Option",
    "PciDevice",
    "State",
    "Timer",
    "describe",
    "job",
    "list_devices",
    "load",
    "suggest",
    "timer",
]
