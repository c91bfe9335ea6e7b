"""The arcs of one device between migration states: what stops, what runs, and when its stream is saved and loaded.

A state is a degree of standing still, and perhaps a stream: an arc changes the one and begins or ends the other. While
the device is paused it stands still whatever its state. It must not know who asks, nor which arcs there are: whoever
serves the device finds the way (vfio.Migration).
"""

from __future__ import annotations

import asyncio
import errno
from contextlib import ExitStack, closing
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from vfuserver.device.migration.loading import Loading
from vfuserver.device.migration.saving import Saving
from vfuserver.errors import CommandError
from vfuserver.vfio import Later, MigrationError, MigrationFlags, MigrationState

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

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
    MigrationState.ERROR: Pace.STOPPED,
}
_SAVES: Final = {MigrationState.PRE_COPY, MigrationState.PRE_COPY_P2P, MigrationState.STOP_COPY}


class DeviceMigration:
    """A `vfio.Migration` of one device, from what its class declares."""

    def __init__(self, device: PciDevice) -> None:
        self._device = device
        self._saving: Saving | None = None
        self._loading: Loading | None = None
        self._waiting: asyncio.Task[None] | None = None
        self._pausing: Later | None = None
        self.paused = False
        ahead = any(bar.declared.streamed for bar in device.bars.values())
        self.flags = MigrationFlags.STOP_COPY | MigrationFlags.P2P
        if ahead:
            self.flags |= MigrationFlags.PRE_COPY

    # -- the contract

    def arc(self, old: MigrationState, new: MigrationState) -> Later | None:
        """One direct arc. CommandError(EINVAL): a stream is refused, and the device is as before; EBUSY: an access
        waits for its answer."""
        if _PACE[new] > _PACE[old]:
            self._must_have_answered()
        if not self.paused and self._waits(_PACE[old], _PACE[new]):
            return self._after(self._rest(_PACE[old], _PACE[new]), partial(self._go, old, new))
        self._go(old, new)
        return None

    def read(self, size: int) -> bytes | memoryview:
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
        self._load_into(None)

    def left(self) -> int:
        """About how many bytes STOP_COPY would give."""
        return (self._saving or Saving(self._device)).left()

    def precopy(self) -> tuple[int, int]:
        """Initial and dirty bytes."""
        return (0, 0) if self._saving is None else self._saving.precopy()

    # -- the device's side

    def reset(self) -> None:
        """The device was reset: it runs, and nothing is saved or loaded (S3.6)."""
        self._saving = None
        self._load_into(None)
        self._change_pace(Pace.RUNS)

    def pause(self, at_once: bool = False) -> Later | None:
        """Stands still until resume(), in any state. `at_once`: what is under way is held, else it ends before.

        CommandError(EBUSY): an access waits for its answer, or DMA is waited for already.
        """
        if at_once or self.paused:
            self._give_up_pausing()
            self.stand_still()
            return None
        if self._waiting is not None:
            raise CommandError(errno.EBUSY, f"{self._device.name} is about to stop: that must end first")
        self._must_have_answered()
        if self._pace is Pace.RUNS and self._device.dma.outstanding:
            self._pausing = self._after(self._device.quiesce(), self.stand_still)
            return self._pausing
        self.stand_still()
        return None

    def resume(self) -> None:
        """Goes on in its state. Idempotent."""
        self._give_up_pausing()
        if self.paused:
            self.paused = False
            self._change_pace(self._pace)

    def stand_still(self) -> None:
        """Paused, at once; the devices beside it need not wait."""
        self.paused = True
        self._device.halt()

    def carry(self) -> dict[str, Any]:
        """The stream that is under way, if any, as plain data; it stays the same here."""
        return {
            "saving": [] if self._saving is None else [self._saving.carry()],
            "loading": [] if self._loading is None else [self._loading.carry()],
        }

    def adopt(self, carried: Mapping[str, Any], kept: ExitStack) -> Callable[[], None]:
        """What goes on with a stream of carry(). CommandError(EINVAL): it cannot be this device's. Nothing has changed
        before the result is called; if it is not, `kept` lets go of what the stream has brought."""
        saving = [Saving(self._device, one) for one in carried["saving"]]
        loading = [kept.enter_context(closing(Loading(self._device, one))) for one in carried["loading"]]

        def go_on() -> None:
            self._saving = next(iter(saving), None)
            self._load_into(next(iter(loading), None))

        return go_on

    # -- inside

    def _give_up_pausing(self) -> None:
        pausing, self._pausing = self._pausing, None
        if pausing is not None:
            pausing.cancel()

    @property
    def _pace(self) -> Pace:
        return _PACE[self._device.migration_state]

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

    def _waits(self, old: Pace, new: Pace) -> bool:
        """Whether there is DMA that has to end first: its own before it is quiet, and that of the devices beside it
        before it stops (S3.10)."""
        device = self._device
        own = old is Pace.RUNS and new is not Pace.RUNS and bool(device.dma.outstanding)
        return own or (old is not Pace.STOPPED and new is Pace.STOPPED and device.neighbours.moving)

    async def _rest(self, old: Pace, new: Pace) -> None:
        if old is Pace.RUNS:
            await self._device.quiesce()
        if new is Pace.STOPPED:
            await self._device.neighbours.rest()

    def _after(self, rest: Coroutine[Any, Any, None], then: Callable[[], None]) -> Later:
        """Goes on when what was under way has ended."""
        task = asyncio.get_running_loop().create_task(rest)
        self._waiting = task
        later = Later(f"{self._device.name}: DMA that is under way", on_cancel=lambda: _cancel(task))

        def done(ended: asyncio.Task[None]) -> None:
            self._waiting = None if self._waiting is ended else self._waiting
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

    def _must_have_answered(self) -> None:
        """The coroutine of an access that is not answered is no state."""
        device = self._device
        if device.activity.unanswered:
            waits = ", ".join(device.activity.unanswered)
            raise CommandError(errno.EBUSY, f"{device.name} cannot stop: {waits} must be answered first")

    def _change_pace(self, pace: Pace) -> None:
        if self.paused:
            return
        {Pace.RUNS: self._device.run, Pace.QUIET: self._device.be_quiet, Pace.STOPPED: self._device.stop}[pace]()

    def _change_stream(self, new: MigrationState) -> None:
        saving = None
        if new in _SAVES:
            saving = self._saving or Saving(self._device)
            if new is MigrationState.STOP_COPY:
                saving.freeze()
        self._saving = saving
        self._load_into(Loading(self._device) if new is MigrationState.RESUMING else None)

    def _load_into(self, loading: Loading | None) -> None:
        if self._loading is not None:
            self._loading.close()
        self._loading = loading

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
