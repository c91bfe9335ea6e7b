"""The arcs of one device between migration states: what stops, what runs, and when its stream is saved and loaded.

A state is a degree of standing still, and perhaps a stream: an arc changes the one and begins or ends the other. It
must not know who asks, nor which arcs there are: whoever serves the device finds the way (vfio.Migration).
"""

from __future__ import annotations

import asyncio
import errno
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Final

from vfuserver.device.migration.loading import Loading
from vfuserver.device.migration.saving import Saving
from vfuserver.errors import CommandError
from vfuserver.vfio import Later, MigrationError, MigrationFlags, MigrationState

if TYPE_CHECKING:
    from collections.abc import Callable

    from vfuserver.device.pci_device import PciDevice


class Pace(IntEnum):
    """How far a device stands still."""

    RUNS = 0
    QUIET = 1
    STOPPED = 2


_PACE: Final = {
    MigrationState.RUNNING: Pace.RUNS,
    MigrationState.PRE_COPY: Pace.RUNS,
    MigrationState.RUNNING_P2P: Pace.QUIET,
    MigrationState.PRE_COPY_P2P: Pace.QUIET,
    MigrationState.STOP: Pace.STOPPED,
    MigrationState.STOP_COPY: Pace.STOPPED,
    MigrationState.RESUMING: Pace.STOPPED,
}
_SAVES: Final = {MigrationState.PRE_COPY, MigrationState.PRE_COPY_P2P, MigrationState.STOP_COPY}


class DeviceMigration:
    """A `vfio.Migration` of one device, from what its class declares."""

    def __init__(self, device: PciDevice) -> None:
        self._device = device
        self._saving: Saving | None = None
        self._loading: Loading | None = None
        ahead = any(bar.declared.streamed for bar in device.bars.values())
        self.flags = MigrationFlags.STOP_COPY | MigrationFlags.P2P
        if ahead:
            self.flags |= MigrationFlags.PRE_COPY

    # -- the contract

    def arc(self, old: MigrationState, new: MigrationState) -> Later | None:
        """One direct arc. CommandError(EINVAL): a stream is refused, and the device is as before; EBUSY: an access
        waits for its answer."""
        if _PACE[old] is Pace.RUNS and _PACE[new] is not Pace.RUNS:
            return self._quiesce(partial(self._go, old, new))
        self._go(old, new)
        return None

    def read(self, size: int) -> bytes:
        """The next bytes of the stream."""
        if self._saving is None:
            raise CommandError(errno.EINVAL, f"{self._device.name}: nothing is being saved")
        return self._saving.read(size)

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes of a stream to load."""
        if self._loading is None:
            raise CommandError(errno.EINVAL, f"{self._device.name}: nothing is being loaded")
        self._loading.write(data)

    def abandon(self) -> None:
        """Drops what was written to be loaded; the device stays stopped, as it was."""
        self._loading = None

    def left(self) -> int:
        """About how many bytes STOP_COPY would give."""
        return (self._saving or Saving(self._device)).left()

    def precopy(self) -> tuple[int, int]:
        """Initial and dirty bytes."""
        return (0, 0) if self._saving is None else self._saving.precopy()

    # -- the device's side

    def reset(self) -> None:
        """The device was reset: it runs, and nothing is saved or loaded (S3.6)."""
        self._saving = self._loading = None
        self._device.run()

    # -- inside

    def _go(self, old: MigrationState, new: MigrationState) -> None:
        """Everything of an arc but waiting for DMA. What can fail comes first; then the pace changes back."""
        if old is MigrationState.RESUMING:
            self._load()
        self._change_pace(_PACE[new])
        try:
            self._change_stream(new)
        except Exception:
            self._change_pace(_PACE[old])
            raise

    def _quiesce(self, then: Callable[[], None]) -> Later | None:
        """Ends DMA that is under way, then goes on: at once if there is none."""
        device = self._device
        if device.activity.unanswered:
            waits = ", ".join(device.activity.unanswered)
            raise CommandError(errno.EBUSY, f"{device.name} cannot stop: {waits} must be answered first")
        if not device.dma.outstanding:
            then()
            return None
        task = asyncio.get_running_loop().create_task(device.quiesce())
        later = Later(f"{device.name}: DMA that is under way", on_cancel=lambda: _cancel(task))

        def done(ended: asyncio.Task[None]) -> None:
            if ended.cancelled():
                return
            try:
                ended.result()
                then()
            except Exception as error:
                later.set_error(error)
            else:
                later.set_result(None)

        task.add_done_callback(done)
        return later

    def _change_pace(self, pace: Pace) -> None:
        {Pace.RUNS: self._device.run, Pace.QUIET: self._device.be_quiet, Pace.STOPPED: self._device.stop}[pace]()

    def _change_stream(self, new: MigrationState) -> None:
        saving = None
        if new in _SAVES:
            saving = self._saving or Saving(self._device)
            if new is MigrationState.STOP_COPY:
                saving.freeze()
        self._saving = saving
        self._loading = Loading(self._device) if new is MigrationState.RESUMING else None

    def _load(self) -> None:
        if self._loading is None:
            raise CommandError(errno.EINVAL, f"{self._device.name}: nothing is being loaded")
        self._loading.finish()
        try:
            self._device.on_load()
        except Exception as error:
            raise MigrationError(errno.EIO, f"{self._device.name}: on_load() failed: {error}") from error


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
