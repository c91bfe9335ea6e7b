"""One register's eventfd on one device: what was rung is counted, held while the device stops, and written.

The register is written as by a REGION_WRITE: the same policy, the same hook, the same gate. Rings while the device is
stopped are held (S3.10), a reset drops them, and the eventfd is a new one for every client. It must not know sessions
or loops: whoever watches the eventfd calls `rung`.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from vfuserver import _core
from vfuserver._core import Gate, Table
from vfuserver.device.backing import Backing
from vfuserver.errors import CommandError, LocalError
from vfuserver.vfio import IoEventFlags

log = logging.getLogger(__name__)

AT_ONCE: Final = 64
"""Rings that are served before others get their turn."""
COUNTER_BYTES: Final = 8
SHADOW_BYTES: Final = 4096
_SERVING: Final = Gate.RUNNING | Gate.QUIET
Saved = tuple[int, int]
"""Rings that wait, and the value that they bring."""


class BoundDoorbell:
    """A `vfio.IoEvent` that writes `size` bytes at `offset` of a table. `latest`: several rings are one write. `where`
    names the register in the log."""

    def __init__(
        self,
        table: Table,
        offset: int,
        size: int,
        *,
        match: int | None,
        shadow: bool,
        io: bool,
        latest: bool,
        gate: Gate,
        where: str,
    ) -> None:
        self.offset = offset
        self.size = size
        self.match = match
        self.shadow = shadow
        self.flags = IoEventFlags.PIO if io else IoEventFlags(0)
        if match is not None:
            self.flags |= IoEventFlags.DATAMATCH
        self._table: Table | None = table
        self._gate = gate
        self._latest = latest
        self._where = where
        self._fd = -1
        self._memory: Backing | None = None
        self._held = 0
        self._value = match or 0
        self._poked = 0

    # -- the contract

    def open(self) -> tuple[int, ...]:
        """The eventfd and, if it has one, the file of the shadow; made when they are first asked for."""
        if self._fd < 0:
            self._memory = Backing(f"{self._where} shadow", SHADOW_BYTES) if self.shadow else None
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._poke()
        return (self._fd,) if self._memory is None else (self._fd, self._memory.fd)

    def rung(self) -> None:
        """Writes the register as often as it was rung, as far as others can wait for it; the rest comes next."""
        self._take_in()
        self._deliver()

    # -- the device's side

    def resume(self) -> None:
        """The device runs again: what was held is served."""
        self._deliver()

    def forget(self) -> None:
        """Drops what was rung and not served."""
        self._take_in()
        self._held = 0

    def saved(self) -> Saved:
        """What a stopped device has not served."""
        self._take_in()
        return self._held, self._value

    def restore(self, saved: Sequence[int]) -> None:
        """Sets what saved() gave."""
        self.forget()
        self._held, self._value = saved

    def descriptors(self) -> tuple[int, ...]:
        """As open() gave them; none before."""
        return () if self._fd < 0 else self.open()

    def adopt(self, fd: int, shadow: Backing | None) -> None:
        """Goes on with these, which a client has got from another process. They are its own from now on."""
        self._fd, self._memory = fd, shadow

    def disconnect(self) -> None:
        """The client is gone, and its rings with it. Idempotent."""
        self._held = self._poked = 0
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """Drops the table, too. Idempotent."""
        self.disconnect()
        self._table = None

    # -- inside

    def _take_in(self) -> None:
        """Counts what was rung. RWF_NOWAIT, because the file is shared and its O_NONBLOCK the client's to clear."""
        count = bytearray(COUNTER_BYTES)
        if self._fd < 0:
            return
        with suppress(BlockingIOError):
            os.preadv(self._fd, [count], -1, os.RWF_NOWAIT)
            self._held += int.from_bytes(count, sys.byteorder) - self._poked
            self._poked = 0
        if self._memory is not None:
            self._value = int.from_bytes(self._memory.memory[: self.size], "little")

    def _deliver(self) -> None:
        for _ in range(AT_ONCE):
            if not self._held or not self._gate.shows(_SERVING, Gate.RUNNING):
                return
            self._held = 0 if self._latest else self._held - 1
            self._write()
        self._poke()

    def _poke(self) -> None:
        """Makes the eventfd readable, so that what is left gets its turn."""
        if self._held and not self._poked and self._fd >= 0:
            _core.signal(self._fd)
            self._poked = 1

    def _write(self) -> None:
        if self._table is None:
            return
        try:
            self._table.write(self.offset, self._value.to_bytes(self.size, "little"))
        except (CommandError, LocalError) as error:
            broken = isinstance(error, LocalError) or error.errno == errno.EIO
            log.warning("%s rung by eventfd: %s", self._where, error, exc_info=broken)
