"""What a device that migrates can do, and the states of it (linux/vfio.h; vfio-user specification, DEVICE_FEATURE).

A `Backend` that migrates has a `Migration`. It is asked for direct arcs only and for the bytes of one stream; whoever
serves it finds the way between two states, keeps the state, and ends what a client leaves unfinished.
Nothing here knows messages.
"""

from enum import IntEnum, IntFlag
from typing import Protocol

from vfuserver.errors import CommandError
from vfuserver.vfio.later import Later


class MigrationState(IntEnum):
    """VFIO_DEVICE_STATE_*."""

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4
    RUNNING_P2P = 5
    PRE_COPY = 6
    PRE_COPY_P2P = 7


class MigrationFlags(IntFlag):
    """VFIO_MIGRATION_*: what feature MIGRATION says."""

    STOP_COPY = 1 << 0
    P2P = 1 << 1
    PRE_COPY = 1 << 2


class MigrationError(CommandError):
    """An arc failed, and the device is in `state` now: by default in ERROR, which only a reset leaves (S3.7, S3.8)."""

    def __init__(self, errno: int, message: str, state: MigrationState = MigrationState.ERROR) -> None:
        super().__init__(errno, message)
        self.state = state


class Migration(Protocol):
    """How a device is saved and loaded. All is called in the session's thread; sizes are in bytes.

    The device begins in RUNNING, and is there after every `Backend.reset`, which ends whatever was under way. The
    stream begins on entering STOP_COPY or PRE_COPY from another kind of state, goes on between PRE_COPY, PRE_COPY_P2P
    and STOP_COPY, and is discarded on leaving them; RESUMING -> STOP verifies and loads what was written.
    """

    @property
    def flags(self) -> MigrationFlags:
        """What it offers: STOP_COPY, and perhaps P2P and PRE_COPY. Never changes."""

    def arc(self, old: MigrationState, new: MigrationState) -> Later | None:
        """Does one direct arc (S3.4). None: done; a Later is completed with None when it is done.

        Any exception: the arc failed and the device is still in `old` (CommandError's errno goes to the client, EIO for
        others). MigrationError: the device is in the state that it names. A Later that is cancelled (its client is
        gone, or would not wait longer): the device stays in `old`.
        """

    def read(self, size: int) -> bytes | memoryview:
        """In PRE_COPY, PRE_COPY_P2P and STOP_COPY: at most `size` further bytes of the stream. Empty: none now; in
        STOP_COPY the end, and it stays the end (S3.12). The bytes must not change any more: they may be sent later."""

    def write(self, data: bytes | memoryview) -> None:
        """In RESUMING: the next bytes, in any segmentation (S3.14). CommandError: they cannot belong to a stream."""

    def abandon(self) -> None:
        """The client is gone in RESUMING: what it wrote is dropped, and the device is in STOP, as it was (S3.23)."""

    def left(self) -> int:
        """About how many bytes STOP_COPY would still give, in any state; asking has no effect (S3.13)."""

    def precopy(self) -> tuple[int, int]:
        """In PRE_COPY and PRE_COPY_P2P: initial bytes (falling as they are read) and dirty bytes still to read."""
