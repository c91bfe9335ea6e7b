"""Doorbells: what is rung on an eventfd does what a write would do, when the device may act."""

import fcntl
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from vfuserver import (
    RW,
    WO,
    Bar,
    CommandError,
    DeclarationError,
    Doorbell,
    KiB,
    PciDevice,
    PciIdentity,
    ResetReason,
    describe,
)
from vfuserver._core import Gate
from vfuserver.device.bound_doorbell import AT_ONCE, BoundDoorbell
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import IoEvent, IoEventFlags

IDENTITY = PciIdentity(vendor=0x1234, device=0x000A)


class Rung(PciDevice):
    """A doorbell of each kind; every hook tells."""

    identity = IDENTITY
    mmio = Bar(0, size=4 * KiB)
    plain = mmio.wo(0x00)
    chosen = mmio.rw(0x04, width=2)
    tail = mmio.wo(0x08)
    queues = mmio.array(0x10, WO, count=3)
    counted = mmio.counter(0x20)
    broken = mmio.wo(0x24)
    ports = Bar(1, size=16, io=True)
    port = ports.wo(0x00, width=1)

    by_any = Doorbell(plain)
    by_one, by_two = Doorbell(chosen, match=1), Doorbell(chosen, match=2)
    by_shadow = Doorbell(tail, shadow=True)
    by_queue = Doorbell(queues)
    by_count = Doorbell(counted)
    by_broken = Doorbell(broken)
    by_port = Doorbell(port)

    def __init__(self, **options: Any) -> None:
        self.seen: list[tuple[str, int]] = []
        super().__init__(**options)

    @plain.on_write
    def on_plain(self, value: int) -> None:
        self.seen.append(("plain", value))

    @chosen.on_write
    def on_chosen(self, value: int) -> None:
        self.seen.append(("chosen", value))

    @tail.on_write
    def on_tail(self, value: int) -> None:
        self.seen.append(("tail", value))

    @queues.on_write
    def on_queue(self, element: int, value: int) -> None:
        self.seen.append((f"queue {element}", value))

    @broken.on_write
    def on_broken(self, _value: int) -> None:
        raise CommandError(22, "never")

    @port.on_write
    def on_port(self, value: int) -> None:
        self.seen.append(("port", value))


@pytest.fixture
def device() -> Iterator[Rung]:
    made = Rung()
    yield made
    made.close()


@pytest.fixture
def client(device: Rung) -> Iterator[LocalClient]:
    with LocalClient(device) as attached:
        attached.enable()
        yield attached


def event(device: PciDevice, offset: int, match: int | None = None, bar: int = 0) -> IoEvent:
    """The one for a place and a value, as an engine sees it."""
    (found,) = [one for one in device.regions[bar].io_events if (one.offset, one.match) == (offset, match)]
    return found


def ring(one: IoEvent, times: int = 1) -> None:
    """Signals it, and has the engine look."""
    os.eventfd_write(one.open()[0], times)
    one.rung()


def test_a_ring_reaches_the_hook_with_no_value(client: LocalClient, device: Rung) -> None:
    one = event(device, 0x00)
    assert (one.size, one.flags, one.shadow) == (4, IoEventFlags(0), False)
    ring(one)
    assert device.seen == [("plain", 0)]


def test_a_match_brings_its_value_through_the_policy(client: LocalClient, device: Rung) -> None:
    for match in (2, 1):
        one = event(device, 0x04, match)
        assert (one.size, one.flags) == (2, IoEventFlags.DATAMATCH)
        ring(one)
    assert device.seen == [("chosen", 2), ("chosen", 1)]
    assert device.chosen == 1


def test_a_shadow_brings_the_value_that_was_left_there(client: LocalClient, device: Rung) -> None:
    one = event(device, 0x08)
    _, memory = one.open()
    os.pwrite(memory, b"\x78\x56\x34\x12\xff", 0)
    ring(one)
    assert device.seen == [("tail", 0x12345678)]


def test_nobody_can_cut_the_shadow_under_the_server(client: LocalClient, device: Rung) -> None:
    _, memory = event(device, 0x08).open()
    with pytest.raises(PermissionError):
        os.ftruncate(memory, 0)


def test_an_array_has_one_for_each_element(client: LocalClient, device: Rung) -> None:
    for offset in (0x18, 0x10):
        ring(event(device, offset))
    assert device.seen == [("queue 2", 0), ("queue 0", 0)]


def test_a_register_without_a_hook_keeps_its_policy(client: LocalClient, device: Rung) -> None:
    ring(event(device, 0x20), 5)
    assert device.counted == 5


def test_an_io_bar_has_the_pio_flag(client: LocalClient, device: Rung) -> None:
    one = event(device, 0, bar=1)
    assert one.flags == IoEventFlags.PIO
    ring(one)
    assert device.seen == [("port", 0)]


def test_each_ring_counts_and_many_are_served_in_turns(client: LocalClient, device: Rung) -> None:
    one = event(device, 0x00)
    ring(one, 2 * AT_ONCE + 1)
    assert len(device.seen) == AT_ONCE
    os.eventfd_write(one.open()[0], 1)  # meanwhile the guest goes on
    while readable(one):
        one.rung()
    assert len(device.seen) == 2 * AT_ONCE + 2


def readable(one: IoEvent) -> bool:
    """Whether an engine would look again."""
    count = bytearray(8)
    try:
        os.preadv(one.open()[0], [count], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    os.eventfd_write(one.open()[0], int.from_bytes(count, "little"))
    return True


def test_a_ring_while_memory_is_not_decoded_is_dropped(client: LocalClient, device: Rung) -> None:
    """S0.16: as a write is."""
    client.enable(0x0004)
    refused = device.gate.refused
    ring(event(device, 0x00))
    client.enable()
    event(device, 0x00).rung()
    assert device.seen == []
    assert device.gate.refused == refused + 1


def test_rings_of_a_stopped_device_are_held_until_it_runs(client: LocalClient, device: Rung) -> None:
    """S3.9, S3.10: nothing runs, and nothing is lost; the engine does not spin on it."""
    one = event(device, 0x04, 2)
    device.stop()
    ring(one, 2)
    ring(one)
    assert device.seen == []
    assert not readable(one)
    device.run()
    assert device.seen == [("chosen", 2)] * 3


def test_more_held_rings_than_one_turn_takes_are_served_all(client: LocalClient, device: Rung) -> None:
    one = event(device, 0x00)
    device.stop()
    ring(one, AT_ONCE + 1)
    device.run()
    assert len(device.seen) == AT_ONCE
    one.rung()
    assert len(device.seen) == AT_ONCE + 1
    assert not readable(one)


def test_a_hook_that_stops_the_device_holds_the_rest(client: LocalClient, device: Rung) -> None:
    """S3.9: in the middle of a turn, too."""

    class Stopping(list[tuple[str, int]]):
        def append(self, item: tuple[str, int]) -> None:
            super().append(item)
            device.stop()

    device.seen = Stopping()
    ring(event(device, 0x00), 3)
    assert len(device.seen) == 1
    for served in (2, 3, 3):
        device.run()
        assert len(device.seen) == served


def test_reset_drops_what_was_rung_before(client: LocalClient, device: Rung) -> None:
    """S2.30: seen or not."""
    one = event(device, 0x00)
    device.stop()
    ring(one)
    os.eventfd_write(one.open()[0], 1)
    device.reset(ResetReason.MESSAGE)
    client.enable()
    device.run()
    one.rung()
    assert device.seen == []


def test_the_next_client_gets_another_eventfd_and_no_former_rings(device: Rung) -> None:
    one = event(device, 0x08)
    with LocalClient(device) as client:
        client.enable()
        former = [os.dup(fd) for fd in one.open()]
        device.stop()
        ring(one)
    device.run()
    with LocalClient(device):
        os.eventfd_write(former[0], 1)
        one.open()
        one.rung()
        assert not os.path.sameopenfile(former[1], one.open()[1])
    assert device.seen == []
    for fd in former:
        os.close(fd)


def test_what_was_held_is_saved_and_served_after_a_load(client: LocalClient, device: Rung) -> None:
    """S3.10: latched rings travel with the device."""
    device.stop()
    ring(event(device, 0x00), 2)
    os.pwrite(event(device, 0x08).open()[1], b"\7", 0)
    os.eventfd_write(event(device, 0x08).open()[0], 1)
    saved = device.snapshot()
    other = Rung()
    other.stop()
    other.gate.set(Gate.MEMORY)
    other.restore(saved)
    assert other.seen == []
    other.run()
    assert other.seen == [("plain", 0), ("plain", 0), ("tail", 7)]
    other.close()


def test_a_client_that_makes_the_eventfd_blocking_stops_nobody(client: LocalClient, device: Rung) -> None:
    """The open file is shared: its flags are the client's, too, and so is what it counts."""
    one = event(device, 0x00)
    fd = one.open()[0]
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    served = threading.Thread(target=one.rung, daemon=True)
    served.start()
    served.join(5)
    assert not served.is_alive()
    os.eventfd_write(fd, (1 << 64) - 2)
    one.rung()
    assert len(device.seen) == AT_ONCE


def test_a_hook_that_refuses_is_logged_with_the_register(
    client: LocalClient, device: Rung, caplog: pytest.LogCaptureFixture
) -> None:
    ring(event(device, 0x24), 2)
    assert caplog.text.count("rung: BAR0+0x24 (broken) rung by eventfd: EINVAL: never") == 2


def test_a_closed_device_has_no_descriptors_left(device: Rung) -> None:
    before = len(os.listdir("/proc/self/fd"))
    ones: list[BoundDoorbell] = list(device.io_events.in_bar(0))
    for one in ones:
        one.open()
    device.close()
    assert len(os.listdir("/proc/self/fd")) <= before
    for one in ones:
        ring(one)
        one.disconnect()
    assert device.seen == []


def test_describe_lists_doorbells() -> None:
    listed = describe(Rung)["doorbells"]
    assert {"bar": 0, "register": "chosen", "match": 2, "shadow": False} in listed
    assert len(listed) == 8


# -- declarations


def declare(**members: Any) -> None:
    type("Wrong", (PciDevice,), {"identity": IDENTITY, **members})


def test_a_doorbell_must_have_a_register_of_its_class() -> None:
    with pytest.raises(DeclarationError, match=r"Wrong\.bell: its register must be in a BAR of the class"):
        declare(bell=Doorbell(Rung.plain))
    mmio = Bar(0, size=4 * KiB)
    with pytest.raises(DeclarationError, match=r"Wrong\.bell: a Doorbell must be of a register, not of MemoryWindow"):
        declare(mmio=mmio, bell=Doorbell(mmio.memory(0, 16)))
    with pytest.raises(DeclarationError, match="not of int"):
        declare(bell=Doorbell(4))  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"match": 256}, {"match": -1}, {"match": 1, "shadow": True}])
def test_a_match_must_fit_and_have_no_shadow(settings: dict[str, Any]) -> None:
    mmio = Bar(0, size=4 * KiB)
    with pytest.raises(DeclarationError, match=r"bell: match must fit in 1 bytes, and must not have a shadow"):
        declare(mmio=mmio, bell=Doorbell(mmio.wo(0, width=1), **settings))


@pytest.mark.parametrize("matches", [(None, None), (1, None), (None, 1), (1, 1)])
def test_one_write_must_not_ring_twice(matches: tuple[int | None, int | None]) -> None:
    mmio = Bar(0, size=4 * KiB)
    row = mmio.register(0, RW, name="row")
    with pytest.raises(DeclarationError, match=r"second: row must have one Doorbell for a value, not two"):
        declare(mmio=mmio, first=Doorbell(row, match=matches[0]), second=Doorbell(row, match=matches[1]))


def test_a_hook_that_answers_later_cannot_be_rung() -> None:
    mmio = Bar(0, size=4 * KiB)
    row = mmio.register(0, RW, name="row")

    @row.on_write
    async def later(self: PciDevice, value: int) -> None:
        """Nobody gets the answer."""

    with pytest.raises(DeclarationError, match=r"the hook of row must not be an async def"):
        declare(mmio=mmio, bell=Doorbell(row))


def test_a_doorbell_must_not_take_a_name_of_the_device() -> None:
    mmio = Bar(0, size=4 * KiB)
    with pytest.raises(DeclarationError, match=r"Wrong\.io_events: must have another name"):
        declare(mmio=mmio, io_events=Doorbell(mmio.wo(0)))
