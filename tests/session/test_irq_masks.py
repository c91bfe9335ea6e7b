"""DEVICE_SET_IRQS: masks, loopback, and what survives what: S2.21, S2.22, S2.30, field-notes C.6."""

import os
from collections.abc import Callable

import pytest

from tests.session.device import LittleDevice
from tests.session.harness import Wire
from tests.session.interrupts import (
    BOOL,
    EVENTFD,
    INTX,
    MASK,
    MSIX,
    NONE,
    TRIGGER,
    UNMASK,
    Events,
    ready,
    set_irqs,
    signalled,
    trigger,
)
from vfuserver.session.ports import Cancellable

# -- masks


def test_masked_vectors_are_not_signalled_and_the_device_is_told_at_unmask(
    wire: Wire, device: LittleDevice, events: Events
) -> None:
    """S2.21: pending stays with the device, which is told."""
    fds = events(3)
    set_irqs(wire, EVENTFD | TRIGGER, MSIX, 0, 3, fds)
    device.log.clear()
    assert set_irqs(wire, NONE | MASK, MSIX, 1, 2) == 0
    assert [trigger(wire, MSIX, vector) for vector in range(3)] == [True, False, False]
    assert ready(device) == []
    assert set_irqs(wire, NONE | UNMASK, MSIX, 1, 2) == 0
    assert ready(device) == [(MSIX, 1, 2)]
    assert trigger(wire, MSIX, 2)


def test_booleans_choose_vectors(wire: Wire, device: LittleDevice, events: Events) -> None:
    fds = events(5)
    set_irqs(wire, EVENTFD | TRIGGER, MSIX, 10, 5, fds)
    assert set_irqs(wire, BOOL | MASK, MSIX, 10, 5, data=b"\1\0\1\1\0") == 0
    assert [trigger(wire, MSIX, 10 + i) for i in range(5)] == [False, True, False, False, True]
    device.log.clear()
    assert set_irqs(wire, BOOL | UNMASK, MSIX, 10, 5, data=b"\2\0\1\1\1") == 0
    assert ready(device) == [(MSIX, 10, 1), (MSIX, 12, 3)]


def test_vectors_can_be_masked_before_they_are_armed(wire: Wire, events: Events) -> None:
    set_irqs(wire, NONE | MASK, MSIX, 0, 1)
    set_irqs(wire, EVENTFD | TRIGGER, MSIX, 0, 1, events(1))
    assert not trigger(wire, MSIX, 0)


def test_intx_masks_itself_until_it_is_unmasked(wire: Wire, device: LittleDevice, events: Events) -> None:
    """field-notes C.6: UNMASK (whatever MASKABLE says) makes the device look at its line again."""
    fds = events(1)
    set_irqs(wire, EVENTFD | TRIGGER, INTX, 0, 1, fds)
    device.log.clear()
    assert (trigger(wire, INTX, 0), trigger(wire, INTX, 0)) == (True, False)
    set_irqs(wire, NONE | UNMASK, INTX, 0, 1)
    assert ready(device) == [(INTX, 0, 1)]
    assert trigger(wire, INTX, 0)
    assert signalled(fds) == [2]


def test_mask_and_unmask_eventfds_are_signalled_when_it_happens(wire: Wire, events: Events) -> None:
    """vfio-user specification: the server writes 1 to the mask or unmask eventfd, if there is one."""
    fds = events(2)
    assert set_irqs(wire, EVENTFD | MASK, MSIX, 3, 1, fds[:1]) == 0
    assert set_irqs(wire, EVENTFD | UNMASK, MSIX, 3, 1, fds[1:]) == 0
    assert not wire.session.connection.interrupts.armed(MSIX)
    set_irqs(wire, NONE | MASK, MSIX, 3, 1)
    assert signalled(fds) == [1, 0]
    set_irqs(wire, NONE | UNMASK, MSIX, 3, 1)
    assert signalled(fds) == [0, 1]


def test_mask_eventfds_can_be_taken_away(wire: Wire, events: Events) -> None:
    fds = events(1)
    set_irqs(wire, EVENTFD | MASK, MSIX, 0, 1, fds)
    assert set_irqs(wire, EVENTFD | MASK, MSIX, 0, 1) == 0
    set_irqs(wire, NONE | MASK, MSIX, 0, 1)
    assert signalled(fds) == [0]


class FakeWatch:
    """What a loop's add_reader would do, at the test's command."""

    def __init__(self) -> None:
        self.callbacks: dict[int, Callable[[], None]] = {}

    def __call__(self, fd: int, callback: Callable[[], None]) -> Cancellable:
        watch = self
        watch.callbacks[fd] = callback

        class Watching:
            def cancel(self) -> None:
                watch.callbacks.pop(fd, None)

        return Watching()

    def turn(self) -> None:
        for callback in list(self.callbacks.values()):
            callback()


def test_a_signal_on_an_unmask_eventfd_unmasks_and_is_not_consumed(device: LittleDevice, events: Events) -> None:
    """field-notes C.1: QEMU with KVM lets KVM signal it when the guest has served a level interrupt."""
    watch = FakeWatch()
    wire = Wire(device, watch=watch)
    wire.negotiate()
    line, resample = events(2)
    set_irqs(wire, EVENTFD | TRIGGER, INTX, 0, 1, [line])
    set_irqs(wire, EVENTFD | UNMASK, INTX, 0, 1, [resample])
    assert trigger(wire, INTX, 0)
    watch.turn()
    assert not trigger(wire, INTX, 0)
    device.log.clear()
    os.eventfd_write(resample, 1)
    watch.turn()
    assert ready(device) == [(INTX, 0, 1)]
    watch.turn()
    assert ready(device) == [(INTX, 0, 1)]
    assert trigger(wire, INTX, 0)
    assert signalled([line, resample]) == [2, 1]
    wire.close()
    assert watch.callbacks == {}


# -- loopback


@pytest.mark.parametrize(("flags", "data", "expected"), [(NONE, b"", [1, 1, 1]), (BOOL, b"\1\0\1", [1, 0, 1])])
def test_the_client_can_trigger_its_own_eventfds(
    wire: Wire, events: Events, flags: int, data: bytes, expected: list[int]
) -> None:
    """vfio-user specification, DEVICE_SET_IRQS, step 5."""
    fds = events(3)
    set_irqs(wire, EVENTFD | TRIGGER, MSIX, 0, 3, fds)
    assert set_irqs(wire, flags | TRIGGER, MSIX, 0, 3, data=data) == 0
    assert signalled(fds) == expected


# -- the end


def test_close_gives_every_eventfd_back_and_disarms(wire: Wire, events: Events) -> None:
    """vfio-user specification, Client Disconnection."""
    before = len(os.listdir("/proc/self/fd"))
    fds = events(3)
    set_irqs(wire, EVENTFD | TRIGGER, MSIX, 0, 3, fds)
    set_irqs(wire, EVENTFD | MASK, MSIX, 0, 3, fds)
    interrupts = wire.session.connection.interrupts
    wire.close()
    assert len(os.listdir("/proc/self/fd")) == before + len(fds)
    assert not interrupts.armed(MSIX)
    assert not interrupts.trigger(MSIX, 0)


def test_reset_keeps_eventfds_and_masks(wire: Wire, events: Events) -> None:
    """S2.30: eventfd assignments of the client survive."""
    fds = events(2)
    set_irqs(wire, EVENTFD | TRIGGER, MSIX, 0, 2, fds)
    set_irqs(wire, NONE | MASK, MSIX, 1, 1)
    (reply,) = wire.send(13)
    assert not reply.errno
    assert (trigger(wire, MSIX, 0), trigger(wire, MSIX, 1)) == (True, False)
