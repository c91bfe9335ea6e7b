"""The region of migration's version 1: a second face of the same machine, for clients that know no other.

Theory of operation
-------------------
The region begins with five registers (struct vfio_device_migration_info of older kernels), each legal in its own width
and alignment only; data lie a page further on. device_state is the machine's state in four bits: a write moves it.

To save, a client reads pending_bytes, then data_offset, which takes a segment of the stream and shows it, then
data_size and the data, in any pieces; reading pending_bytes again says that it has them. To load, it writes a segment
at data_offset and then its length to data_size, which consumes it (S3.28). Segments are cut here: the stream is the
same bytes as in version 2 (S3.29).

It must not know messages.
"""

import errno
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from vfuserver.errors import CommandError
from vfuserver.session.migration import Machine
from vfuserver.session.migration_arcs import SAVING
from vfuserver.vfio import Later, MigrationFlags, MigrationState, Region, RegionFlags
from vfuserver.wire import U32, Layout

DATA_OFFSET: Final = 4096
CAP_TYPE, CAP_MIGRATION_NDMA = 2, 6
"""VFIO_REGION_INFO_CAP_TYPE, and VFIO_REGION_INFO_CAP_MIG_NDMA: device_state has the NDMA bit."""
TYPE: Final = Layout("type" / U32, "subtype" / U32)
MIGRATION_TYPE, MIGRATION_SUBTYPE = 3, 1

RUN, SAVE, RESUME, NDMA = 1, 2, 4, 8
STATE_BITS: Final = RUN | SAVE | RESUME | NDMA
"""Of device_state; the others read as zero, and what is written there is ignored."""

SHOWN: Final = {
    MigrationState.ERROR: SAVE | RESUME,
    MigrationState.STOP: 0,
    MigrationState.RUNNING: RUN,
    MigrationState.STOP_COPY: SAVE,
    MigrationState.RESUMING: RESUME,
    MigrationState.RUNNING_P2P: RUN | NDMA,
    MigrationState.PRE_COPY: RUN | SAVE,
    MigrationState.PRE_COPY_P2P: RUN | SAVE | NDMA,
}
"""What device_state reads as."""

MEANT: Final = {
    bits | more: state
    for state, bits in SHOWN.items()
    if state is not MigrationState.ERROR
    for more in ((0,) if bits & RUN else (0, NDMA))
}
"""What can be written: a device that does not run does no DMA either, so NDMA adds nothing there."""


class Register(NamedTuple):
    """One register: how it is read and, unless writes are EINVAL, written."""

    name: str
    size: int
    read: Callable[[], int]
    write: Callable[[int], Later | None] | None


class MigrationRegion:
    """One connection's region, and the segment that is in it."""

    def __init__(self, machine: Machine, segment: int) -> None:
        """`segment` is the most bytes of one, and the size of the data section."""
        self._machine, self._most = machine, segment
        self._stream = machine.streams
        self._segment: bytes | None = None
        self._incoming = bytearray()
        self._registers: Final = {
            0: Register("device_state", 4, lambda: SHOWN[machine.state], self._move),
            4: Register("reserved", 4, lambda: 0, lambda _: None),
            8: Register("pending_bytes", 8, self._pending, None),
            16: Register("data_offset", 8, self._show, None),
            24: Register("data_size", 8, lambda: len(self._current or b""), self._consume),
        }

    def carry(self) -> list[Any]:
        """The segment that is shown or written, for another process."""
        return [self._stream, self._segment, bytes(self._incoming)]

    def adopt(self, carried: Sequence[Any]) -> None:
        """Shows what carry() told."""
        self._stream, self._segment, incoming = carried
        self._incoming[:] = incoming

    def region(self) -> Region:
        """What the client is told of."""
        capabilities = [(CAP_TYPE, TYPE.pack(MIGRATION_TYPE, MIGRATION_SUBTYPE))]
        if MigrationFlags.P2P in self._machine.flags:
            capabilities.append((CAP_MIGRATION_NDMA, b""))
        return Region(
            DATA_OFFSET + self._most,
            RegionFlags.READ | RegionFlags.WRITE,
            access=self._access,
            capabilities=tuple(capabilities),
        )

    def _access(self, offset: int, count: int, data: bytes | None) -> bytes | Later | None:
        """CommandError(EINVAL): not one whole register nor a piece of the data, or not legal in this state."""
        if offset >= DATA_OFFSET:
            return self._data(offset - DATA_OFFSET, count, data)
        register = self._registers.get(offset)
        if register is None or count != register.size:
            text = f"{count} bytes at {offset:#x} of the migration region, must be one whole register"
            raise CommandError(errno.EINVAL, text)
        if data is None:
            return register.read().to_bytes(count, "little")
        if register.write is None:
            raise CommandError(errno.EINVAL, f"{register.name} can only be read")
        return register.write(int.from_bytes(data, "little"))

    # -- registers

    def _move(self, value: int) -> Later | None:
        wanted = MEANT.get(value & STATE_BITS)
        if wanted is None:
            raise CommandError(errno.EINVAL, f"device_state {value & STATE_BITS:#x} cannot be asked for")
        return self._machine.move(wanted)

    def _pending(self) -> int:
        """What was shown has been read by now. Not zero while anything is there, and zero only at the end."""
        if self._machine.state not in SAVING:
            return 0
        self._segment = None
        waiting = self._machine.waiting(self._most)
        return max(waiting, self._estimate()) if waiting else 0

    def _estimate(self) -> int:
        if self._machine.state is MigrationState.STOP_COPY:
            return self._machine.left()
        return sum(self._machine.precopy())

    def _show(self) -> int:
        if self._machine.state in SAVING and self._current is None:
            self._segment, self._stream = b"".join(self._machine.read(self._most)), self._machine.streams
        return DATA_OFFSET

    def _consume(self, size: int) -> None:
        self._must_resume("data_size")
        if size > self._most:
            raise CommandError(errno.EINVAL, f"data_size {size}, must be at most {self._most}")
        data = bytes(self._incoming[:size])
        self._incoming.clear()
        self._machine.write(data + bytes(size - len(data)))

    # -- data

    @property
    def _current(self) -> bytes | None:
        """The segment that is shown; None: none, or that of a stream that is over."""
        over = self._stream != self._machine.streams or self._machine.state not in SAVING
        return None if over else self._segment

    def _data(self, at: int, count: int, data: bytes | None) -> bytes | None:
        if data is None:
            return (self._current or b"")[at : at + count].ljust(count, b"\0")
        self._must_resume("the data section")
        self._incoming.extend(bytes(max(0, at - len(self._incoming))))
        self._incoming[at : at + count] = data
        return None

    def _must_resume(self, what: str) -> None:
        if self._machine.state is not MigrationState.RESUMING:
            text = f"{what} can be written in RESUMING, not in {self._machine.state.name}"
            raise CommandError(errno.EINVAL, text)
        if self._stream != self._machine.streams:  # what is there was meant for another one
            self._incoming.clear()
            self._stream = self._machine.streams
