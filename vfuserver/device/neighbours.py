"""The devices beside one: functions of its card, and those that its server serves to the same client (S3.10, S3.25).

They may do DMA to each other, so none is stopped while another one moves memory: first the jobs and timers of the
others are held, and transfers that are under way end, as far as that takes no longer than PATIENCE. A client that
knows the P2P states has seen to that itself. One that does not stops devices one by one, and sets them going one by
one: therefore those that run go on waiting until none is stopped, but no longer than HOLD after the last one was. What
waits is not refused, and nobody sees it but by the time: registers answer, interrupts leave.

So nobody waits for a stopped device for ever, none fails because of another, and nothing is locked. One that is served
by another thread is held, looked at and set going there; of what it does here only whole words are read. It must not
know sessions, nor migration states.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from vfuserver._core import Gate
from vfuserver.device.activity import Reason
from vfuserver.device.run import running_loop

if TYPE_CHECKING:
    from vfuserver.device.pci_device import PciDevice

HOLD: Final = 1.0
"""Seconds for which a device that runs waits for the others to stop, or to run, too."""
PATIENCE: Final = 1.0
"""Seconds for which a device that is to stop waits for the others' DMA: its client waits 5 s at most (S1.11)."""
_TURN: Final = 0.0005
"""Seconds between two looks at DMA that is under way."""


class Neighbours:
    """One device's place among those beside it, and how long it waits for them."""

    def __init__(self, device: PciDevice) -> None:
        self._device = device
        self._timer: asyncio.TimerHandle | None = None

    def __iter__(self) -> Iterator[Neighbours]:
        """The places of those beside it."""
        own = self._device
        card = own.card.functions if own.card is not None else ()
        served = (vars(one).get("neighbours") for one in own.beside)
        client = (one for one in served if isinstance(one, Neighbours) and self._has_the_client_of(one))
        yield from (one for one in dict.fromkeys((*(one.neighbours for one in card), *client)) if one is not self)

    @property
    def moving(self) -> bool:
        """True while transfers are, or may be, under way beside it, which have to end before it stops."""
        return any(one._elsewhere or one._device.dma.outstanding for one in self if one._runs)

    async def rest(self) -> None:
        """The device is to stop: holds those that run, and returns when their DMA has ended, or after PATIENCE."""
        running, held = [one for one in self if one._runs], set[Neighbours]()

        def hold(one: Neighbours) -> None:
            one._wait()
            held.add(one)

        for one in running:
            one._there(partial(hold, one))
        try:
            async with asyncio.timeout(PATIENCE):
                while any(one not in held or one._device.dma.outstanding for one in running):
                    await asyncio.sleep(_TURN)
        except TimeoutError:
            late = [one for one in running if one not in held or one._device.dma.outstanding]
            names = ", ".join(one._device.name for one in late)
            self._device.log.warning("%s stops though the DMA of %s has not ended", self._device.name, names)
        except BaseException:
            for one in running:
                one.look()
            raise

    def stopped(self) -> None:
        """The device has been stopped: those that run wait."""
        for one in self:
            if one._runs:
                one._there(one._wait)

    def set_going(self) -> None:
        """The device runs, or is quiet: it waits for those that are stopped; who waited for it alone goes on."""
        if self._runs and self._somebody_stopped:
            self._wait()
        for one in (self, *self):
            one.look()

    def look(self) -> None:
        """Somebody has gone, or goes on: the device does, too, if nobody is stopped."""
        self._there(self._look)

    def close(self) -> None:
        """Nothing is waited for any more. Idempotent."""
        self._go_on()

    # -- inside

    @property
    def _elsewhere(self) -> bool:
        """Another thread serves the device."""
        loop = self._device.served_on
        return loop is not None and loop is not running_loop() and not loop.is_closed()

    def _there(self, call: Callable[[], object]) -> None:
        """Has it called by the thread that serves the device: at once if that is this one."""
        loop = self._device.served_on
        if loop is None or not self._elsewhere:
            call()
            return
        with suppress(RuntimeError):  # the loop has just been closed: the device is, too
            loop.call_soon_threadsafe(call)

    def _look(self) -> None:
        if self._timer is not None and not self._somebody_stopped:
            self._go_on()

    @property
    def _runs(self) -> bool:
        return self._device.gate.word & (Gate.RUNNING | Gate.QUIET) == Gate.RUNNING

    @property
    def _stopped(self) -> bool:
        return not self._device.gate.word & Gate.RUNNING

    @property
    def _somebody_stopped(self) -> bool:
        return any(one._stopped for one in self)

    def _has_the_client_of(self, other: Neighbours) -> bool:
        """Both have one, and they are not known to be two processes."""
        clients = (self._device.client, other._device.client)
        processes = {client.peer_pid for client in clients if client is not None and client.peer_pid is not None}
        return None not in clients and len(processes) < 2

    def _wait(self) -> None:
        """From now on, for HOLD. Without a loop nothing goes on by itself."""
        loop = running_loop()
        if loop is None or not self._runs:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._device.activity.hold(Reason.NEIGHBOURS, gently=True, answers=True)
        self._timer = loop.call_later(HOLD, self._give_up)

    def _give_up(self) -> None:
        names = ", ".join(one._device.name for one in self if one._stopped)
        self._device.log.info("%s goes on, though stopped are: %s", self._device.name, names or "none")
        self._go_on()

    def _go_on(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._device.activity.release(Reason.NEIGHBOURS)
