"""The contract between what serves a device and what is one.

A `Backend` is a device: a Python model, a passed-through device, or a filter around another Backend. A `Client` is
the port through which the device reaches whoever is connected: its memory and its interrupts. An engine (our own, or
libvfio-user) owns the Client and calls the Backend; neither knows the other's kind. Nothing here knows messages.

Life: made -> attach(client) -> ... -> detach() -> attach(next client) ... -> close(). Device state lives as long as
the Backend; everything that came from a client goes with `detach`.
"""

import errno
from abc import ABC, abstractmethod
from asyncio import AbstractEventLoop
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from vfuserver._core import Gate
from vfuserver.errors import CommandError
from vfuserver.iommu import OnRevoke, Pieces, View
from vfuserver.vfio.later import Later
from vfuserver.vfio.migration import Migration, MigrationState
from vfuserver.vfio.region import Region
from vfuserver.vfio.uapi import DeviceFlags, IrqFlags

_NO_FLAGS = IrqFlags(0)
_GATE_BITS: Final = ("IO", "MEMORY", "MASTER", "RUNNING")


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
    """The client's memory as a device sees it (IOVAs and lengths in bytes). DmaError says what went wrong.

    What is awaited reaches all memory, by copy where it is mapped and by DMA_READ and DMA_WRITE messages where it is
    not. The others never wait and are legal in hooks; they raise DmaError(EFAULT) where only messages reach.
    """

    async def read(self, iova: int, length: int) -> bytes:
        """Reads."""

    async def write(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """Writes all of `data`."""

    async def readv(self, pieces: Pieces) -> bytes:
        """Reads pieces: their bytes one after another."""

    async def writev(self, pieces: Pieces, data: bytes | bytearray | memoryview) -> None:
        """Spreads `data` over pieces that have as many bytes."""

    async def copy(self, source: int, destination: int, length: int) -> None:
        """Copies from one IOVA to another."""

    async def preadv(self, fd: int, pieces: Pieces, offset: int) -> int:
        """Fills pieces from a file; how many bytes."""

    async def pwritev(self, fd: int, pieces: Pieces, offset: int) -> int:
        """Writes pieces to a file; how many bytes."""

    def read_now(self, iova: int, length: int) -> bytes:
        """As read."""

    def write_now(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        """As write."""

    def readv_now(self, pieces: Pieces) -> bytes:
        """As readv."""

    def writev_now(self, pieces: Pieces, data: bytes | bytearray | memoryview) -> None:
        """As writev."""

    def copy_now(self, source: int, destination: int, length: int) -> None:
        """As copy."""

    def atomic(self, operation: int, iova: int, size: int, operand: int = 0, expected: int = 0) -> int:
        """One access of 1, 2, 4 or 8 bytes to mapped memory (an operation of the core); what was there before."""

    def pin(self, iova: int, length: int, writable: bool, on_revoke: OnRevoke | None = None) -> View:
        """A view of mapped memory, in place."""

    def check(self, iova: int, length: int, write: bool) -> None:
        """DmaError unless all of it may be read, or written, now."""

    def drain(self) -> None:
        """Waits for copies that other threads have under way: whoever has closed the gate calls it, and then nothing
        touches memory any more (S2.33)."""


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

    @property
    def peer_pid(self) -> int | None:
        """Its process: that of one virtual machine. None: not known."""


class Backend(ABC):
    """A device. Subclasses set the attributes before they are attached and never change their shape afterwards."""

    name: str
    regions: Sequence[Region]
    """By VFIO region index; at least 9 entries for PCI."""
    irqs: Sequence[Irq]
    """By VFIO interrupt index; 5 entries for PCI."""
    gate: Gate
    device_flags: DeviceFlags = DeviceFlags.PCI | DeviceFlags.RESET
    beside: Sequence["Backend"] = ()
    """All that are served by one server, this one included: set by whoever serves them, and alive."""
    served_on: AbstractEventLoop | None = None
    """The loop whose thread asks it whatever it is asked: set by whoever serves it. None: nobody does yet."""
    migration: Migration | None = None
    """How it is saved and loaded. None: it does not migrate."""
    migration_state: MigrationState = MigrationState.RUNNING
    """Where that stands, whoever is connected: written by what serves the device, and RUNNING after a reset."""

    @abstractmethod
    def attach(self, client: Client) -> None:
        """A client has finished negotiating. Pending interrupts wait until it arms them (`interrupts_ready`)."""

    @abstractmethod
    def detach(self) -> None:
        """The client is gone: DMA fails with ENODEV from now on, interrupts become pending, state stays."""

    @abstractmethod
    def reset(self, reason: ResetReason) -> Later | None:
        """The device's one reset. None: done. The client's eventfds and mappings survive (S2.30). One that migrates
        runs afterwards: whatever the reason, `migration_state` is RUNNING and a stream is forgotten (S3.6)."""

    @abstractmethod
    def interrupts_ready(self, index: int, start: int, count: int) -> None:
        """Vectors [start, start + count) of an index were armed or unmasked: what is pending there, and an asserted
        INTx, is triggered now."""

    def pause(self, at_once: bool = False) -> Later | None:
        """Stands still for a moment, for hand_over(): nothing happens by itself, and nobody may access it. None: done.

        DMA that is under way is waited for, unless it must be `at_once`: then it is begun anew after take_over().
        CommandError: EBUSY (an access waits for its answer), ENOTSUP (it cannot be moved to another process).
        """
        raise CommandError(errno.ENOTSUP, f"{self.name} cannot be handed over to another process")

    def resume(self) -> None:
        """Goes on after pause(), or after take_over(), in its migration state. Idempotent."""
        raise CommandError(errno.ENOTSUP, f"{self.name} cannot be handed over to another process")

    def hand_over(self) -> Any:
        """Everything that the paused device is, for another process on this machine that goes on with it: plain data
        with Descriptors, which stay its own. It stays as it is, so that it may resume()."""
        raise CommandError(errno.ENOTSUP, f"{self.name} cannot be handed over to another process")

    def take_over(self, carried: Any) -> None:
        """Becomes the device that hand_over() told of, still paused, before a client is attached.

        CommandError(EINVAL): they are not the same device; says everything that differs, and nothing has changed, also
        not what lies in the descriptors' files."""
        raise CommandError(errno.ENOTSUP, f"{self.name} cannot be handed over to another process")

    def describe_access(self, region: int, offset: int) -> str:
        """The register's name and place for log lines, such as `BAR0+0x18 (raise)`."""
        return f"region {region}+{offset:#x}"

    def dump(self) -> dict[str, Any]:
        """What there is to see of it at this moment, as plain data for `inspect` (S4.26). Without side effects."""
        word = self.gate.word
        return {
            "gate": [name for name in _GATE_BITS if word & getattr(Gate, name)],
            "refused": self.gate.refused,
            "migration": "RUNNING" if word & Gate.RUNNING else "STOP",
        }

    def close(self) -> None:  # noqa: B027 - a backend without resources has nothing to do
        """Frees what the device owns (files, tasks). The object is not used afterwards."""
