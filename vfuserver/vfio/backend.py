"""The contract between what serves a device and what is one.

A `Backend` is a device: a Python model, a passed-through device, or a filter around another Backend. A `Client` is
the port through which the device reaches whoever is connected: its memory and its interrupts. An engine (our own, or
libvfio-user) owns the Client and calls the Backend; neither knows the other's kind. Nothing here knows messages.

Life: made -> attach(client) -> ... -> detach() -> attach(next client) ... -> close(). Device state lives as long as
the Backend; everything that came from a client goes with `detach`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from vfuserver._core import Gate
from vfuserver.vfio.later import Later
from vfuserver.vfio.region import Region
from vfuserver.vfio.uapi import DeviceFlags, IrqFlags

_NO_FLAGS = IrqFlags(0)


class ResetReason(Enum):
    """Why a device is reset."""

    MESSAGE = "VFIO_USER_DEVICE_RESET"
    FLR = "function level reset"
    POWER = "D3hot to D0"


@dataclass(frozen=True, slots=True)
class Irq:
    """One interrupt index: how many vectors, and VFIO_IRQ_INFO_* flags (0 vectors: absent)."""

    count: int = 0
    flags: IrqFlags = _NO_FLAGS


class Memory(Protocol):
    """The client's memory as a device sees it (IOVAs in bytes). DmaError says what went wrong."""

    async def read(self, iova: int, length: int) -> bytes:
        """Reads, by copy where memory is mapped and by DMA_READ messages where it is not."""

    async def write(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """Writes, by copy or by DMA_WRITE messages."""

    def read_now(self, iova: int, length: int) -> bytes:
        """Reads mapped memory without waiting; DmaError(EFAULT) where only messages reach. Legal in hooks."""

    def write_now(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """Writes mapped memory without waiting; errors as read_now."""


class Interrupts(Protocol):
    """The client's eventfds."""

    def armed(self, index: int) -> bool:
        """True while SET_IRQS has armed the index and not disabled it (S2.21)."""

    def trigger(self, index: int, vector: int) -> bool:
        """Signals the vector's eventfd. False: masked by SET_IRQS, or no eventfd; the device keeps it pending."""


class Client(Protocol):
    """Whoever is connected, from VERSION until the connection ends."""

    @property
    def memory(self) -> Memory:
        """Its memory, by IOVA."""

    @property
    def interrupts(self) -> Interrupts:
        """Its eventfds."""


class Backend(ABC):
    """A device. Subclasses set the attributes before they are attached and never change their shape afterwards."""

    name: str
    regions: Sequence[Region]
    """By VFIO region index; at least 9 entries for PCI."""
    irqs: Sequence[Irq]
    """By VFIO interrupt index; 5 entries for PCI."""
    gate: Gate
    device_flags: DeviceFlags = DeviceFlags.PCI | DeviceFlags.RESET

    @abstractmethod
    def attach(self, client: Client) -> None:
        """A client has finished negotiating. Pending interrupts wait until it arms them (`interrupts_ready`)."""

    @abstractmethod
    def detach(self) -> None:
        """The client is gone: DMA fails with ENODEV from now on, interrupts become pending, state stays."""

    @abstractmethod
    def reset(self, reason: ResetReason) -> Later | None:
        """The device's one reset. None: done. The client's eventfds and mappings survive (S2.30)."""

    @abstractmethod
    def interrupts_ready(self, index: int, start: int, count: int) -> None:
        """Vectors [start, start + count) of an index were armed or unmasked: what is pending there, and an asserted
        INTx, is triggered now."""

    def describe_access(self, region: int, offset: int) -> str:
        """The register's name and place for log lines, such as `BAR0+0x18 (raise)`."""
        return f"region {region}+{offset:#x}"

    def close(self) -> None:  # noqa: B027 - a backend without resources has nothing to do
        """Frees what the device owns (files, tasks). The object is not used afterwards."""
