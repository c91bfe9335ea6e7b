"""DEVICE_GET_REGION_IO_FDS: what is offered, byte by byte, and when its signals are heard."""

import errno
import os
import select
from collections.abc import Callable, Iterator

import pytest

from tests.session.harness import Message, Wire, command
from vfuserver import WO, Bar, Doorbell, KiB, PciDevice, PciIdentity
from vfuserver.session.negotiation import version_data

IO_FDS, REGION_WRITE, RESET = command(6), command(10), command(13)
ROOM = 4096
PLAIN, SHADOWED, EMPTY, PORTS, MANY = range(5)
"""BARs by what is in them."""


class Rung(PciDevice):
    """Eventfds without a shadow, with one, none."""

    identity = PciIdentity(vendor=0x1234, device=0x000B)
    decodes_always = True
    plain = Bar(PLAIN, size=4 * KiB)
    any_value = plain.wo(0x10)
    some_values = plain.wo(0x20, width=8)
    bell = Doorbell(any_value)
    bell_of_7 = Doorbell(some_values, match=0x0102_0304_0506_0708)
    shadowed = Bar(SHADOWED, size=4 * KiB)
    tail = shadowed.wo(0x08)
    head = shadowed.wo(0x04, width=2)
    bell_of_tail = Doorbell(tail, shadow=True)
    bell_of_head = Doorbell(head, match=3)
    empty = Bar(EMPTY, size=4 * KiB)
    ports = Bar(PORTS, size=32, io=True)
    port = ports.array(0, WO, count=20, width=1)
    bells = Doorbell(port)
    many = Bar(MANY, size=4 * KiB)
    queue = many.array(0, WO, count=1000)
    bells_of_queues = Doorbell(queue)

    @any_value.on_write
    def write_any(self, _value: int) -> None:
        self.rings = getattr(self, "rings", 0) + 1


class Watching:
    """What an event loop is to a session: `turn` calls back whose descriptor is readable."""

    def __init__(self) -> None:
        self.callbacks: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, callback: Callable[[], None]) -> "Watched":
        assert fd not in self.callbacks
        self.callbacks[fd] = callback
        return Watched(self, fd)

    def turn(self) -> int:
        readable = select.select(list(self.callbacks), [], [], 0)[0]
        for fd in readable:
            self.callbacks[fd]()
        return len(readable)


class Watched:
    """What `watch` returns."""

    def __init__(self, watching: Watching, fd: int) -> None:
        self.watching, self.fd = watching, fd

    def cancel(self) -> None:
        self.watching.callbacks.pop(self.fd, None)


@pytest.fixture
def device() -> Iterator[Rung]:
    made = Rung()
    yield made
    made.close()


@pytest.fixture
def loop() -> Watching:
    return Watching()


@pytest.fixture
def wire(device: Rung, loop: Watching) -> Iterator[Wire]:
    made = Wire(device, watch=loop.watch)
    made.negotiate()
    yield made
    made.close()
    assert not loop.callbacks


def io_fds(wire: Wire, index: int, argsz: int = ROOM) -> Message:
    return wire.ask(IO_FDS, IO_FDS.request.pack(argsz, 0, index, 0))


def test_sub_regions_without_a_shadow_have_the_specifications_40_bytes(wire: Wire) -> None:
    expected = (
        "60000000 00000000 00000000 02000000"
        "1000000000000000 0400000000000000 00000000 00000000 00000000 00000000 0000000000000000"
        "2000000000000000 0800000000000000 01000000 00000000 01000000 00000000 0807060504030201"
    )
    reply = io_fds(wire, PLAIN)
    assert reply.payload == bytes.fromhex(expected)
    assert len(reply.fds) == 2


def test_sub_regions_with_a_shadow_have_libvfio_users_48_bytes(wire: Wire) -> None:
    """All of a reply have the same size; the shadow's file comes after its eventfd."""
    expected = (
        "70000000 00000000 01000000 02000000"
        "0800000000000000 0400000000000000 00000000 02000000 00000000 01000000 0000000000000000 0000000000000000"
        "0400000000000000 0200000000000000 02000000 00000000 01000000 00000000 0000000000000000 0300000000000000"
    )
    reply = io_fds(wire, SHADOWED)
    assert reply.payload == bytes.fromhex(expected)
    kinds = [os.readlink(f"/proc/self/fd/{fd}").split(" ")[0].partition(":")[0] for fd in reply.fds]
    assert kinds == ["anon_inode", "/memfd", "anon_inode"]


@pytest.mark.parametrize("index", [EMPTY, 5, 7, 8])
def test_a_region_without_events_has_no_sub_regions(wire: Wire, index: int) -> None:
    reply = io_fds(wire, index)
    assert IO_FDS.reply.unpack(reply.payload) == (16, 0, index, 0)
    assert reply.fds == ()


@pytest.mark.parametrize("argsz", [16, 95])
def test_an_argsz_too_small_for_all_is_told_what_is_needed(wire: Wire, loop: Watching, argsz: int) -> None:
    """vfio-user specification: argsz is the full payload size needed; nothing is given and nothing is heard."""
    reply = io_fds(wire, PLAIN, argsz)
    assert IO_FDS.reply.unpack(reply.payload) == (96, 0, PLAIN, 2)
    assert (len(reply.payload), reply.fds, loop.callbacks) == (16, (), {})


def test_an_argsz_that_just_suffices_gives_all(wire: Wire) -> None:
    assert len(io_fds(wire, PLAIN, 96).fds) == 2


@pytest.mark.parametrize(
    "fields",
    [(15, 0, 0, 0), (0, 0, 0, 0), (ROOM, 1, 0, 0), (ROOM, 0, 9, 0), (ROOM, 0, 0xFFFFFFFF, 0), (ROOM, 0, 0, 1)],
)
def test_bad_fields_are_einval(wire: Wire, loop: Watching, fields: tuple[int, int, int, int]) -> None:
    """S3.17: argsz, flags, index, and a count that is not zero."""
    reply = wire.ask(IO_FDS, IO_FDS.request.pack(*fields))
    assert (reply.errno, reply.payload, reply.fds, loop.callbacks) == (errno.EINVAL, b"", (), {})


@pytest.mark.parametrize(("fds", "sub_regions"), [(0, 0), (1, 1), (16, 16), (64, 20)])
def test_no_more_descriptors_than_the_client_takes(device: Rung, loop: Watching, fds: int, sub_regions: int) -> None:
    """max_msg_fds; what is left out comes by messages."""
    wire = Wire(device, watch=loop.watch)
    wire.negotiate(version_data({"max_msg_fds": fds}))
    reply = io_fds(wire, PORTS)
    assert IO_FDS.reply.unpack(reply.payload) == (16 + 40 * sub_regions, 0, PORTS, sub_regions)
    assert len(reply.fds) == sub_regions
    wire.close()


def test_no_more_descriptors_than_a_message_can_carry(device: Rung, loop: Watching) -> None:
    """unix(7): 253, whatever the client says."""
    wire = Wire(device, watch=loop.watch)
    wire.negotiate(version_data({"max_msg_fds": 100_000}))
    reply = io_fds(wire, MANY, 1 << 20)
    assert (IO_FDS.reply.unpack(reply.payload)[3], len(reply.fds)) == (253, 253)
    wire.close()


def test_a_shadow_that_does_not_fit_is_left_out(device: Rung, loop: Watching) -> None:
    wire = Wire(device, watch=loop.watch)
    wire.negotiate(version_data({"max_msg_fds": 1}))
    assert IO_FDS.reply.unpack(io_fds(wire, SHADOWED).payload) == (16, 0, SHADOWED, 0)
    wire.close()


def test_a_session_that_cannot_listen_offers_nothing(device: Rung) -> None:
    wire = Wire(device)
    wire.negotiate()
    assert IO_FDS.reply.unpack(io_fds(wire, PLAIN).payload) == (16, 0, PLAIN, 0)
    wire.close()


def test_a_ring_is_what_a_region_write_is(wire: Wire, device: Rung, loop: Watching) -> None:
    reply = io_fds(wire, PLAIN)
    os.eventfd_write(reply.fds[0], 2)
    assert loop.turn() == 1
    assert device.rings == 2
    wire.ask(REGION_WRITE, REGION_WRITE.request.build(offset=0x10, region=PLAIN, data=bytes(4)))
    assert (device.rings, loop.turn()) == (3, 0)


def test_asking_twice_gives_the_same_eventfd_heard_once(wire: Wire, device: Rung, loop: Watching) -> None:
    first, second = io_fds(wire, PLAIN), io_fds(wire, PLAIN)
    os.eventfd_write(first.fds[0], 1)
    os.eventfd_write(second.fds[0], 1)
    loop.turn()
    assert (device.rings, len(loop.callbacks)) == (2, 2)


def test_reset_leaves_the_eventfds(wire: Wire, device: Rung, loop: Watching) -> None:
    """S2.30."""
    reply = io_fds(wire, PLAIN)
    wire.ask(RESET)
    os.eventfd_write(reply.fds[0], 1)
    loop.turn()
    assert device.rings == 1


def test_the_end_of_a_connection_ends_its_eventfds(device: Rung, loop: Watching) -> None:
    """A former client cannot ring the device of the next."""
    former = Wire(device, watch=loop.watch)
    former.negotiate()
    kept = os.dup(io_fds(former, PLAIN).fds[0])
    former.close()
    assert not loop.callbacks
    wire = Wire(device, watch=loop.watch)
    wire.negotiate()
    io_fds(wire, PLAIN)
    os.eventfd_write(kept, 1)
    assert loop.turn() == 0
    assert not hasattr(device, "rings")
    wire.close()
    os.close(kept)


def test_a_backend_that_fails_when_rung_is_logged(
    wire: Wire, device: Rung, loop: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    reply = io_fds(wire, PLAIN)
    for one in device.io_events.in_bar(PLAIN):
        one._table = object()  # type: ignore[assignment]
    os.eventfd_write(reply.fds[0], 1)
    loop.turn()
    assert "a write by eventfd at offset 0x10 failed" in caplog.text
    assert io_fds(wire, EMPTY).errno == 0
