"""Region accesses that may take time, made before the library sees their message.

A callback of the library's cannot wait. But what the next message is, is known beforehand: an access of a region with
registers that answer later, a write of configuration space, which may reset the device, or a read so long that the
library is called beside the loop (where no device's code may run), is given to a `Stream` of
our own, the very code that serves it with the default engine. The message is left where it is until the answer is
there; then the library serves it, and the callback hands out that answer. An access that the library would refuse is
left to it. It must not know sockets, nor what a register does.
"""

import errno
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from vfuserver._core import Stream
from vfuserver.errors import CommandError, LocalError
from vfuserver.session.commands.region_read import RegionRead
from vfuserver.session.commands.region_write import RegionWrite
from vfuserver.vfio import Later, PciRegion, Region
from vfuserver.wire import HEADER_SIZE, command_message, split_message

ACCESS: Final = "QII"
"""offset, region, count of REGION_READ and REGION_WRITE."""
FIXED: Final = 16
LARGEST: Final = 1 << 20
LONG: Final = 1 << 15
"""Bytes of a reply above which the library may have to wait for room to send it."""

HookError = Callable[[int, int, BaseException], None]
"""hook_error(region, offset, error)"""


class Answer(NamedTuple):
    """What an access came to: an errno, or the bytes of a read."""

    error: int
    data: bytes


class Ahead:
    """One connection's accesses that may take time, one at a time."""

    def __init__(self, regions: Sequence[Region], hook_error: HookError, masks: bool) -> None:
        """`masks`: a read that fails gives all ones, a write is as if it were done (the quirk region-errors)."""
        self._regions = regions
        self._stream = Stream(self._no_command, self._no_command, max_transfer=LARGEST, on_later=self._hold)
        self._stream.on_hook_error = hook_error
        self._stream.masked_errors = masks
        self._stream.negotiated = True
        self._stream.regions = [(one.size, one.table or one.access) for one in regions]
        self._whole: Later | None = None
        self._answer: Answer | None = None

    def concerns(self, command: int, size: int, fields: tuple[int, ...] | None) -> bool:
        """Whether a message (its number, its size, its ACCESS fields) is such an access."""
        if command not in (RegionRead.number, RegionWrite.number) or fields is None:
            return False
        offset, index, count = fields
        if index >= len(self._regions) or not 0 < count <= LARGEST or offset + count > self._regions[index].size:
            return False
        writes = command == RegionWrite.number
        if writes and size - HEADER_SIZE - FIXED != count:
            return False
        waits = bool(self._regions[index].waits) or (writes and index == PciRegion.CONFIG)
        return waits or (not writes and count > LONG)

    def begin(self, command: int, payload: bytes) -> Later | None:
        """Makes the access; a Later: it takes time. Its answer is `take`'s then."""
        self._answer = self._whole = None
        self._collect(self._stream.feed(command_message(command, 1, payload)))
        return self._whole

    def take(self) -> bytes | None:
        """The answer, once, to the callback that the library serves the message with: the bytes of a read, b"" of a
        write; None: nothing was made ahead. CommandError: the access was refused."""
        answer, self._answer = self._answer, None
        if answer is None:
            return None
        if answer.error:
            raise CommandError(answer.error)
        return answer.data

    def give_up(self, error: BaseException) -> None:
        """The access has taken too long, or nobody waits for it."""
        if self._stream.held:
            self._complete(error)

    def close(self) -> None:
        """Nothing of the device is held any more. Idempotent."""
        self._stream.regions = []
        self._stream.close()
        self._regions = ()

    # -- the stream

    def _hold(self, later: object) -> None:
        if not isinstance(later, Later):
            what = f"a hook of region {self._stream.hook_region}"
            error = LocalError(f"{what} returned {later!r}, must be a value, None or Later")
            later = Later(what)
            later.set_error(error)
        whole = self._whole = Later(later.what, on_cancel=later.cancel)

        def ended(result: object) -> None:
            if not whole.done:
                self._complete(result)
                whole.set_result(None)

        later.when_done(ended)

    def _complete(self, result: object) -> None:
        self._stream.complete(result)
        self._collect(self._stream.take())

    def _collect(self, output: Sequence[tuple[bytes, tuple[int, ...]]]) -> None:
        for message, _ in output:
            header, payload = split_message(message)
            self._answer = Answer(header.error if header.is_error else 0, payload[FIXED:])

    @staticmethod
    def _no_command(*_: object) -> None:
        raise CommandError(errno.EIO, "only accesses are made here")
