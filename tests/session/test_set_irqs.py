"""DEVICE_SET_IRQS: what is legal, arming and taking away: S2.21, S2.22, field-notes C.6."""

import errno
import itertools
import os

import pytest

from tests.session.device import LittleDevice
from tests.session.harness import Wire
from tests.session.interrupts import (
    BOOL,
    ERR,
    EVENTFD,
    INTX,
    MASK,
    MSI,
    MSIX,
    NONE,
    REQ,
    TRIGGER,
    UNMASK,
    Events,
    ready,
    set_irqs,
    signalled,
    trigger,
)
from vfuserver.errors import LocalError
from vfuserver.session.commands.device_set_irqs import SHAPES, DeviceSetIrqs
from vfuserver.vfio import Irq, IrqFlags

# -- what is legal


def test_shapes_are_every_pair_of_data_and_action() -> None:
    """S2.22."""
    assert SHAPES.keys() == set(itertools.product((NONE, BOOL, EVENTFD), (MASK, UNMASK, TRIGGER)))


@pytest.mark.parametrize("flags", [flags for flags in range(128) if (flags & 7, flags & ~7) not in SHAPES])
def test_flags_without_one_data_and_one_action_are_einval(wire: Wire, flags: int) -> None:
    """S2.22, S3.17: both data or both action bits, none of them, undefined bits."""
    assert set_irqs(wire, flags, MSIX, 0, 1, data=b"\1") == errno.EINVAL


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "place", [(5, 0, 1), (MSIX, 40, 1), (MSIX, 39, 2), (MSIX, 0xFFFFFFFF, 2), (REQ, 0, 1), (INTX, 1, 1)]
)
def test_vectors_that_do_not_exist_are_einval(wire: Wire, shape: tuple[int, int], place: tuple[int, int, int]) -> None:
    """S2.22: start + count beyond count."""
    assert set_irqs(wire, sum(shape), *place, data=b"\1\1") == errno.EINVAL


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_count_zero_is_legal_only_to_disable(wire: Wire, shape: tuple[int, int]) -> None:
    """vfio-user specification, DEVICE_SET_IRQS."""
    assert set_irqs(wire, sum(shape), MSIX, 0, 0) == (0 if shape == (NONE, TRIGGER) else errno.EINVAL)
    assert set_irqs(wire, sum(shape), MSIX, 1, 0) == errno.EINVAL


@pytest.mark.parametrize(("argsz", "expected"), [(19, errno.EINVAL), (20, 0), (23, 0), (24, errno.EINVAL)])
def test_argsz_is_at_least_twenty_and_at_most_what_came(wire: Wire, argsz: int, expected: int) -> None:
    request = DeviceSetIrqs.request.pack(argsz, BOOL | MASK, MSIX, 0, 3) + bytes(3)
    assert wire.ask(DeviceSetIrqs, request).errno == expected


@pytest.mark.parametrize("data", [NONE, BOOL, EVENTFD])
@pytest.mark.parametrize("action", [MASK, UNMASK])
@pytest.mark.parametrize(("index", "expected"), [(INTX, 0), (MSI, errno.EINVAL), (MSIX, 0), (ERR, errno.EINVAL)])
def test_masks_are_for_indexes_that_say_maskable(wire: Wire, data: int, action: int, index: int, expected: int) -> None:
    """S2.22: flags of DEVICE_GET_IRQ_INFO are true."""
    assert set_irqs(wire, data | action, index, 0, 1, data=b"\1") == expected


def test_unmask_of_intx_is_legal_whatever_its_flags_say(wire: Wire, device: LittleDevice) -> None:
    """field-notes C.6: it is how QEMU asks whether the line is still high."""
    assert isinstance(device.irqs, list)
    device.irqs[INTX] = Irq(1, IrqFlags.EVENTFD)
    assert set_irqs(wire, NONE | MASK, INTX, 0, 1) == errno.EINVAL
    assert set_irqs(wire, NONE | UNMASK, INTX, 0, 1) == 0
    assert ready(device) == [(INTX, 0, 1)]


def test_too_few_booleans_are_einval(wire: Wire) -> None:
    assert set_irqs(wire, BOOL | MASK, MSIX, 0, 3, data=b"\1\1") == errno.EINVAL


@pytest.mark.parametrize("data", [NONE, BOOL])
def test_descriptors_in_other_shapes_are_einval(wire: Wire, events: Events, data: int) -> None:
    """S2.22: and closed."""
    assert set_irqs(wire, data | TRIGGER, MSIX, 0, 1, events(1), b"\1") == errno.EINVAL


@pytest.mark.parametrize("given", [1, 3])
def test_descriptors_that_do_not_match_the_count_are_einval(wire: Wire, events: Events, given: int) -> None:
    assert set_irqs(wire, EVENTFD | TRIGGER, MSIX, 0, 2, events(given)) == errno.EINVAL
    assert not wire.session.connection.interrupts.armed(MSIX)


def test_a_descriptor_that_is_no_eventfd_is_einval(wire: Wire, events: Events) -> None:
    """Issue 2: so that signalling never blocks."""
    ends = os.pipe()
    assert set_irqs(wire, EVENTFD | TRIGGER, MSIX, 0, 2, [*events(1), ends[1]]) == errno.EINVAL
    assert not wire.session.connection.interrupts.armed(MSIX)
    for fd in ends:
        os.close(fd)


# -- arming


def test_armed_vectors_are_signalled(wire: Wire, events: Events) -> None:
    fds = events(3)
    assert set_irqs(wire, EVENTFD | TRIGGER, MSIX, 2, 3, fds) == 0
    assert wire.session.connection.interrupts.armed(MSIX)
    assert [trigger(wire, MSIX, vector) for vector in range(6)] == [False, False, True, True, True, False]
    assert signalled(fds) == [1, 1, 1]


def test_arming_tells_the_device(wire: Wire, device: LittleDevice, events: Events) -> None:
    """vfio.Backend.interrupts_ready."""
    set_irqs(wire, EVENTFD | TRIGGER, MSIX, 2, 3, events(3))
    assert ready(device) == [(MSIX, 2, 3)]


def test_arming_again_replaces_the_eventfd(wire: Wire, events: Events) -> None:
    old, new = events(1), events(1)
    set_irqs(wire, EVENTFD | TRIGGER, MSI, 0, 1, old)
    set_irqs(wire, EVENTFD | TRIGGER, MSI, 0, 1, new)
    trigger(wire, MSI, 0)
    assert signalled(old + new) == [0, 1]


def test_forty_vectors_in_chunks_are_all_armed(wire: Wire, events: Events) -> None:
    """S2.22: chunks of at most max_msg_fds."""
    fds = events(40)
    for start in (0, 16, 32):
        chunk = fds[start : start + 16]
        assert set_irqs(wire, EVENTFD | TRIGGER, MSIX, start, len(chunk), chunk) == 0
    assert all(trigger(wire, MSIX, vector) for vector in range(40))
    assert signalled(fds) == [1] * 40


def test_signalling_a_full_counter_does_not_block(wire: Wire, events: Events) -> None:
    """Issue 2."""
    (fd,) = events(1)
    os.eventfd_write(fd, (1 << 64) - 2)
    os.set_blocking(fd, True)
    set_irqs(wire, EVENTFD | TRIGGER, MSIX, 0, 1, [fd])
    assert trigger(wire, MSIX, 0)
    assert signalled([fd]) == [(1 << 64) - 2]


@pytest.mark.parametrize("vector", [-1, 40])
def test_raising_a_vector_that_does_not_exist_is_the_devices_bug(wire: Wire, vector: int) -> None:
    with pytest.raises(LocalError, match="MSIX"):
        trigger(wire, MSIX, vector)


# -- taking away


@pytest.mark.parametrize("index", [INTX, MSI, MSIX, ERR])
def test_deassigning_what_was_never_assigned_succeeds(wire: Wire, index: int) -> None:
    """S2.22."""
    assert set_irqs(wire, EVENTFD | TRIGGER, index, 0, 1) == 0
    assert not trigger(wire, index, 0)


def test_deassigned_vectors_are_not_signalled(wire: Wire, events: Events) -> None:
    fds = events(4)
    set_irqs(wire, EVENTFD | TRIGGER, MSI, 0, 4, fds)
    assert set_irqs(wire, EVENTFD | TRIGGER, MSI, 1, 2) == 0
    assert [trigger(wire, MSI, vector) for vector in range(4)] == [True, False, False, True]
    assert signalled(fds) == [1, 0, 0, 1]


@pytest.mark.parametrize(("index", "armed"), [(INTX, False), (MSI, True), (MSIX, True), (ERR, False)])
def test_a_message_without_descriptors_arms_msi_and_msix_only(wire: Wire, index: int, armed: bool) -> None:
    """field-notes C.6: QEMU's first message for MSI-X is start 0, count 1, no fd."""
    set_irqs(wire, EVENTFD | TRIGGER, index, 0, 1)
    assert wire.session.connection.interrupts.armed(index) is armed


def test_the_last_deassigned_vector_disarms_err(wire: Wire, events: Events) -> None:
    set_irqs(wire, EVENTFD | TRIGGER, ERR, 0, 1, events(1))
    assert wire.session.connection.interrupts.armed(ERR)
    set_irqs(wire, EVENTFD | TRIGGER, ERR, 0, 1)
    assert not wire.session.connection.interrupts.armed(ERR)


@pytest.mark.parametrize("index", [INTX, MSI, MSIX, ERR, REQ])
def test_disabling_an_index_forgets_everything(wire: Wire, events: Events, index: int) -> None:
    """S2.22; also where nothing was armed."""
    fds = events(1)
    if index != REQ:
        set_irqs(wire, EVENTFD | TRIGGER, index, 0, 1, fds)
        set_irqs(wire, NONE | MASK, index, 0, 1)
    assert set_irqs(wire, NONE | TRIGGER, index, 0, 0) == 0
    assert not wire.session.connection.interrupts.armed(index)
    if index != REQ:
        set_irqs(wire, EVENTFD | TRIGGER, index, 0, 1, fds)
        assert trigger(wire, index, 0)
