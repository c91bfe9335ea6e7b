"""Interrupts of testdev: eventfds, masks and pending bits as the specification and S2.15 to S2.22 have them."""

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Sequence

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Eventfd, Server, capabilities, eventually, refused

RAISE, LOWER, PBA = 0x18, 0x1C, 0x800
Eventfds = Callable[..., list[Eventfd]]


def armed(client: raw.Client, index: int, events: Sequence[Eventfd]) -> Sequence[Eventfd]:
    """The eventfds, assigned from vector 0 on."""
    client.arm(index, [event.fd for event in events])
    return events


def counts(client: raw.Client, events: Sequence[Eventfd]) -> list[int]:
    """How often each has fired by now; a round trip gives the server time to do it."""
    client.read(raw.BAR0, 0)
    return [event.fired() for event in events]


def trigger(client: raw.Client, vector: int) -> None:
    """Have the device raise it."""
    client.write(raw.BAR0, RAISE, vector)


def capability(client: raw.Client, ident: int) -> int:
    """Where a capability is."""
    return capabilities(client.read_bytes(raw.CONFIG, 0, 256))[ident]


# INTx


def test_intx_while_asserted_fires_again_on_unmask(client: raw.Client, eventfds: Eventfds) -> None:
    """Issue 2, field-notes C.6: a level, triggered again on UNMASK while asserted."""
    (line,) = armed(client, raw.INTX, eventfds())
    trigger(client, 0)
    assert line.fires() == 1
    assert client.read(raw.CONFIG, 6, 2) & 8
    for _ in range(3):
        client.set_irqs(raw.DATA_NONE | raw.UNMASK, raw.INTX, 0, 1)
        assert line.fires() == 1
    client.write(raw.BAR0, LOWER, 0)
    assert not client.read(raw.CONFIG, 6, 2) & 8
    client.set_irqs(raw.DATA_NONE | raw.UNMASK, raw.INTX, 0, 1)
    assert counts(client, [line]) == [0]


def test_intx_raised_twice_is_one_edge(client: raw.Client, eventfds: Eventfds) -> None:
    """Field-notes C.6: the eventfd is an edge of a level."""
    (line,) = armed(client, raw.INTX, eventfds())
    trigger(client, 0)
    trigger(client, 0)
    assert line.fires() == 1
    assert counts(client, [line]) == [0]


def test_intx_asserted_before_it_is_armed_fires_when_armed(client: raw.Client, eventfds: Eventfds) -> None:
    """Issue 2: INTx is a level, so a client that arms it late must learn of it."""
    trigger(client, 0)
    (line,) = armed(client, raw.INTX, eventfds())
    client.set_irqs(raw.DATA_NONE | raw.UNMASK, raw.INTX, 0, 1)
    assert line.fires() >= 1


def test_intx_while_masked_waits_for_unmask(client: raw.Client, eventfds: Eventfds) -> None:
    """Specification, SET_IRQS: MASK and UNMASK with DATA_NONE and DATA_BOOL."""
    (line,) = armed(client, raw.INTX, eventfds())
    client.set_irqs(raw.DATA_NONE | raw.MASK, raw.INTX, 0, 1)
    trigger(client, 0)
    client.set_irqs(raw.DATA_BOOL | raw.UNMASK, raw.INTX, 0, 1, data=b"\0")
    assert counts(client, [line]) == [0]
    client.set_irqs(raw.DATA_BOOL | raw.UNMASK, raw.INTX, 0, 1, data=b"\1")
    assert line.fires() == 1


def test_intx_without_bus_mastering_is_sent(client: raw.Client, eventfds: Eventfds) -> None:
    """testdev.md: message-signalled interrupts and DMA need bus mastering, a line does not."""
    (line,) = armed(client, raw.INTX, eventfds())
    client.write(raw.CONFIG, 4, 3, 2)
    trigger(client, 0)
    assert line.fires() == 1


@pytest.mark.parametrize(("offset", "width", "off", "on"), [(5, 1, 4, 0), (4, 2, 0x407, 7)])
def test_intx_disabled_in_command_is_silent_until_enabled(
    client: raw.Client, eventfds: Eventfds, offset: int, width: int, off: int, on: int
) -> None:
    """S2.16: COMMAND bit 10, by a byte write at offset 5 too; STATUS bit 3 shows the line all the same."""
    (line,) = armed(client, raw.INTX, eventfds())
    client.write(raw.CONFIG, offset, off, width)
    trigger(client, 0)
    assert counts(client, [line]) == [0]
    assert client.read(raw.CONFIG, 4) & 0x00080400 == 0x00080400
    client.set_irqs(raw.DATA_NONE | raw.UNMASK, raw.INTX, 0, 1)
    assert counts(client, [line]) == [0]
    client.write(raw.CONFIG, offset, on, width)
    assert line.fires() == 1
    assert counts(client, [line]) == [0]


def test_intx_when_reset_is_low(client: raw.Client, eventfds: Eventfds) -> None:
    """S2.30: power-on, so the line is low and UNMASK is silent."""
    (line,) = armed(client, raw.INTX, eventfds())
    trigger(client, 0)
    assert line.fires() == 1
    client.reset()
    client.write(raw.CONFIG, 4, 7, 2)
    client.set_irqs(raw.DATA_NONE | raw.UNMASK, raw.INTX, 0, 1)
    assert counts(client, [line]) == [0]
    assert not client.read(raw.CONFIG, 6, 2) & 8
    trigger(client, 0)
    assert line.fires() == 1


# Which index


def test_raise_with_every_index_armed_chooses_msix_then_msi_then_intx(client: raw.Client, eventfds: Eventfds) -> None:
    """testdev.md 0x18: MSI-X if armed, else MSI, else INTx; ENABLE bits do not count (S2.19, S2.21)."""
    line, msi, msix = eventfds(3)
    client.arm(raw.INTX, [line.fd])
    client.arm(raw.MSI, [msi.fd])
    client.arm(raw.MSIX, [msix.fd])
    for index, expected in ((raw.MSIX, [0, 0, 1]), (raw.MSI, [0, 1, 0]), (raw.INTX, [1, 0, 0])):
        trigger(client, 0)
        assert counts(client, [line, msi, msix]) == expected
        client.set_irqs(raw.DATA_NONE | raw.TRIGGER, index)


@pytest.mark.parametrize(("value", "index"), [(0x100, raw.ERR), (0x101, raw.REQ)])
def test_raise_of_err_and_req_fires_their_eventfds(
    client: raw.Client, eventfds: Eventfds, value: int, index: int
) -> None:
    """testdev.md 0x18: 0x100 raises ERR, 0x101 REQ; neither needs bus mastering."""
    error, request = eventfds(2)
    client.arm(raw.ERR, [error.fd])
    client.arm(raw.REQ, [request.fd])
    client.write(raw.CONFIG, 4, 2, 2)
    trigger(client, value)
    assert counts(client, [error, request]) == [int(index == raw.ERR), int(index == raw.REQ)]
    client.arm(index, [])
    trigger(client, value)
    assert counts(client, [error, request]) == [0, 0]


@pytest.mark.parametrize("value", [8, 0xFF, 0x102, 0xFFFFFFFF])
def test_raise_of_a_vector_that_is_not_there_harms_nobody(client: raw.Client, eventfds: Eventfds, value: int) -> None:
    """testdev.md has 8 vectors: an error or nothing, and the device goes on."""
    events = armed(client, raw.MSIX, eventfds(8))
    with contextlib.suppress(raw.RefusedError):
        trigger(client, value)
    assert counts(client, events) == [0] * 8


# MSI


def test_msi_of_each_vector_fires_its_own_eventfd(client: raw.Client, eventfds: Eventfds) -> None:
    """testdev.md: 4 MSI vectors."""
    events = armed(client, raw.MSI, eventfds(4))
    for vector in range(4):
        trigger(client, vector)
        assert counts(client, events) == [int(n == vector) for n in range(4)]


def test_msi_masked_in_the_capability_is_pending_and_delivered_once(client: raw.Client, eventfds: Eventfds) -> None:
    """S2.20: mask vector 3, raise twice, pending = 8, no event; unmask: one event; a write to pending is ignored."""
    events = armed(client, raw.MSI, eventfds(4))
    at = capability(client, 5)
    client.write(raw.CONFIG, at + 0x10, 8)
    trigger(client, 3)
    trigger(client, 3)
    trigger(client, 2)
    assert counts(client, events) == [0, 0, 1, 0]
    client.write(raw.CONFIG, at + 0x14, 0)
    assert client.read(raw.CONFIG, at + 0x14) == 8
    client.write(raw.CONFIG, at + 0x10, 0)
    assert counts(client, events) == [0, 0, 0, 1]
    assert client.read(raw.CONFIG, at + 0x14) == 0


def test_msi_capability_written_with_ones_keeps_what_is_read_only(client: raw.Client) -> None:
    """S2.19, S2.20: QSIZE clamped to QMASK, address bits 1:0 zero, data 16 bits, mask of 4 vectors."""
    at = capability(client, 5)
    client.write_bytes(raw.CONFIG, at, b"\xff" * 24)
    control, low, high, data, mask, pending = struct.unpack("<2xHIIIII", client.read_bytes(raw.CONFIG, at, 24))
    assert control == 0x01A5
    assert (low, high, data & 0xFFFF, mask, pending) == (0xFFFFFFFC, 0xFFFFFFFF, 0xFFFF, 0xF, 0)


def test_msi_without_bus_mastering_is_pending_and_delivered_once(client: raw.Client, eventfds: Eventfds) -> None:
    """S2.15: not sent but pending; S2.21: delivered once when that ends."""
    events = armed(client, raw.MSI, eventfds(4))
    client.write(raw.CONFIG, 4, 3, 2)
    trigger(client, 1)
    trigger(client, 1)
    assert counts(client, events) == [0, 0, 0, 0]
    assert client.read(raw.CONFIG, capability(client, 5) + 0x14) == 2
    client.write(raw.CONFIG, 4, 7, 2)
    assert counts(client, events) == [0, 1, 0, 0]


# MSI-X


def test_msix_of_each_vector_fires_its_own_eventfd(client: raw.Client, eventfds: Eventfds) -> None:
    """testdev.md: 8 MSI-X vectors; each raise is an event."""
    events = armed(client, raw.MSIX, eventfds(8))
    for vector in range(8):
        for _ in range(vector + 1):
            trigger(client, vector)
    assert counts(client, events) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert client.read(raw.BAR4, PBA, 8) == 0


def test_msix_armed_vector_by_vector_works_as_qemu_does_it(client: raw.Client, eventfds: Eventfds) -> None:
    """Field-notes C.6: start 0 count 1 with no fd first, then one SET_IRQS for each vector."""
    events = eventfds(8)
    client.set_irqs(raw.DATA_EVENTFD | raw.TRIGGER, raw.MSIX, 0, 1)
    for vector in (5, 2):
        client.arm(raw.MSIX, [events[vector].fd], vector)
    trigger(client, 2)
    trigger(client, 5)
    assert counts(client, events) == [0, 0, 1, 0, 0, 1, 0, 0]


def test_msix_masked_by_set_irqs_is_pending_in_the_pba(client: raw.Client, eventfds: Eventfds) -> None:
    """S2.21: masked, raised twice, PBA read, unmasked: once."""
    events = armed(client, raw.MSIX, eventfds(8))
    client.set_irqs(raw.DATA_NONE | raw.MASK, raw.MSIX, 2, 4)
    trigger(client, 5)
    trigger(client, 5)
    trigger(client, 6)
    assert counts(client, events) == [0, 0, 0, 0, 0, 0, 1, 0]
    assert client.read(raw.BAR4, PBA, 8) == 1 << 5
    client.write(raw.BAR4, PBA, 0, 8)
    assert client.read(raw.BAR4, PBA, 1) == 1 << 5
    client.set_irqs(raw.DATA_BOOL | raw.UNMASK, raw.MSIX, 2, 4, data=b"\1\1\1\0")
    assert counts(client, events) == [0] * 8
    client.set_irqs(raw.DATA_BOOL | raw.UNMASK, raw.MSIX, 4, 2, data=b"\0\1")
    assert counts(client, events) == [0, 0, 0, 0, 0, 1, 0, 0]
    assert client.read(raw.BAR4, PBA, 8) == 0


@pytest.mark.parametrize("width", [1, 2])
def test_msix_masked_as_a_whole_is_pending(client: raw.Client, eventfds: Eventfds, width: int) -> None:
    """S2.21: MASKALL in the capability."""
    events = armed(client, raw.MSIX, eventfds(8))
    at, value = (capability(client, 0x11) + 4 - width, 0x4000 if width == 2 else 0x40)
    client.write(raw.CONFIG, at, value, width)
    for vector in (0, 7, 7):
        trigger(client, vector)
    assert counts(client, events) == [0] * 8
    assert client.read(raw.BAR4, PBA, 8) == 0x81
    client.write(raw.CONFIG, at, 0, width)
    assert counts(client, events) == [1, 0, 0, 0, 0, 0, 0, 1]
    assert client.read(raw.BAR4, PBA, 8) == 0


def test_msix_without_bus_mastering_is_pending_and_delivered_once(client: raw.Client, eventfds: Eventfds) -> None:
    """S2.15, S2.21."""
    events = armed(client, raw.MSIX, eventfds(8))
    client.write(raw.CONFIG, 4, 3, 2)
    trigger(client, 4)
    trigger(client, 4)
    assert counts(client, events) == [0] * 8
    assert client.read(raw.BAR4, PBA, 8) == 0x10
    client.write(raw.CONFIG, 4, 7, 2)
    assert counts(client, events) == [0, 0, 0, 0, 1, 0, 0, 0]
    assert client.read(raw.BAR4, PBA, 8) == 0


def test_msix_masked_in_two_ways_waits_for_both(client: raw.Client, eventfds: Eventfds) -> None:
    """S2.21: what masks a vector is each of SET_IRQS, MASKALL and bus mastering."""
    events = armed(client, raw.MSIX, eventfds(8))
    at = capability(client, 0x11) + 2
    client.set_irqs(raw.DATA_NONE | raw.MASK, raw.MSIX, 0, 1)
    client.write(raw.CONFIG, at, 0x4000, 2)
    client.write(raw.CONFIG, 4, 3, 2)
    trigger(client, 0)
    for offset, value in ((4, 7), (at, 0x8000)):
        client.write(raw.CONFIG, offset, value, 2)
        assert counts(client, events) == [0] * 8
        assert client.read(raw.BAR4, PBA, 8) == 1
    client.set_irqs(raw.DATA_NONE | raw.UNMASK, raw.MSIX, 0, 1)
    assert counts(client, events)[0] == 1


def test_msix_table_that_nobody_has_written_masks_nothing(client: raw.Client, eventfds: Eventfds) -> None:
    """S2.21: entries are masked at reset, and that gates only a vector whose entry a client has written."""
    events = armed(client, raw.MSIX, eventfds(8))
    assert client.read_bytes(raw.BAR4, 0, 128) == (bytes(12) + b"\1\0\0\0") * 8
    trigger(client, 3)
    assert counts(client, events) == [0, 0, 0, 1, 0, 0, 0, 0]


def test_msix_table_entry_when_written_masks_its_vector(client: raw.Client, eventfds: Eventfds) -> None:
    """S2.21: the table's mask bit gates delivery once the entry has been written by a region access."""
    events = armed(client, raw.MSIX, eventfds(8))
    client.write(raw.BAR4, 0x3C, 1)
    trigger(client, 3)
    trigger(client, 2)
    assert counts(client, events) == [0, 0, 1, 0, 0, 0, 0, 0]
    assert client.read(raw.BAR4, PBA, 8) == 8
    client.write(raw.BAR4, 0x3C, 0)
    assert counts(client, events) == [0, 0, 0, 1, 0, 0, 0, 0]
    client.write_bytes(raw.BAR4, 0x30, struct.pack("<IIII", 0xFEE00004, 1, 0x41, 0))
    assert struct.unpack("<IIII", client.read_bytes(raw.BAR4, 0x30, 16)) == (0xFEE00004, 1, 0x41, 0)


def test_msix_capability_written_with_ones_takes_two_bits(client: raw.Client) -> None:
    """S2.21: read-only except ENABLE and MASKALL."""
    at = capability(client, 0x11)
    before = client.read_bytes(raw.CONFIG, at, 12)
    client.write_bytes(raw.CONFIG, at, b"\xff" * 12)
    after = client.read_bytes(raw.CONFIG, at, 12)
    assert after[:2] + after[4:] == before[:2] + before[4:]
    assert after[2:4] == b"\x07\xc0"


def test_msix_pending_when_reset_is_cleared(client: raw.Client, eventfds: Eventfds) -> None:
    """S2.20, S2.30: reset clears mask and pending; the eventfds survive."""
    events = armed(client, raw.MSIX, eventfds(8))
    client.set_irqs(raw.DATA_NONE | raw.MASK, raw.MSIX, 0, 8)
    client.write(raw.BAR4, 0x1C, 1)
    for vector in range(8):
        trigger(client, vector)
    client.reset()
    client.write(raw.CONFIG, 4, 7, 2)
    assert client.read(raw.BAR4, PBA, 8) == 0
    client.set_irqs(raw.DATA_NONE | raw.UNMASK, raw.MSIX, 0, 8)
    assert counts(client, events) == [0] * 8
    trigger(client, 1)
    assert counts(client, events) == [0, 1, 0, 0, 0, 0, 0, 0]


# SET_IRQS


def test_set_irqs_without_fds_de_assigns_the_vectors(client: raw.Client, eventfds: Eventfds) -> None:
    """S2.22: no fds = de-assign count vectors, also when nothing was assigned."""
    events = armed(client, raw.MSIX, eventfds(8))
    for _ in range(2):
        client.set_irqs(raw.DATA_EVENTFD | raw.TRIGGER, raw.MSIX, 2, 3)
    for vector in range(8):
        trigger(client, vector)
    assert counts(client, events) == [1, 1, 0, 0, 0, 1, 1, 1]


def test_set_irqs_of_an_index_when_disabled_drops_all_eventfds(
    server: Server, client: raw.Client, eventfds: Eventfds
) -> None:
    """Specification: count and start 0 with DATA_NONE disables the index; the server's copies are closed."""
    before = server.descriptors()
    events = armed(client, raw.MSIX, eventfds(8))
    assert server.descriptors() == before + 8
    for _ in range(2):
        client.set_irqs(raw.DATA_NONE | raw.TRIGGER, raw.MSIX)
    trigger(client, 0)
    assert counts(client, events) == [0] * 8
    assert eventually(lambda: server.descriptors() == before)


def test_set_irqs_with_new_eventfds_replaces_the_old(server: Server, client: raw.Client, eventfds: Eventfds) -> None:
    """S2.22: eventfd leak check."""
    old, new = eventfds(2)
    client.arm(raw.MSIX, [old.fd])
    before = server.descriptors()
    for event in (new, old) * 20 + (new,):
        client.arm(raw.MSIX, [event.fd])
    trigger(client, 0)
    assert counts(client, [old, new]) == [0, 1]
    assert eventually(lambda: server.descriptors() == before)


def test_set_irqs_triggered_by_the_client_signals_the_chosen(client: raw.Client, eventfds: Eventfds) -> None:
    """Specification: a client may trigger by DATA_NONE or DATA_BOOL."""
    events = armed(client, raw.MSIX, eventfds(8))
    client.set_irqs(raw.DATA_NONE | raw.TRIGGER, raw.MSIX, 1, 2)
    assert counts(client, events) == [0, 1, 1, 0, 0, 0, 0, 0]
    client.set_irqs(raw.DATA_BOOL | raw.TRIGGER, raw.MSIX, 3, 3, data=b"\1\0\1")
    assert counts(client, events) == [0, 0, 0, 1, 0, 1, 0, 0]


SHAPES = [
    ("unknown index", raw.DATA_NONE | raw.TRIGGER, 5, 0, 1, 0, b""),
    ("beyond count", raw.DATA_NONE | raw.TRIGGER, raw.MSIX, 0, 9, 0, b""),
    ("start beyond count", raw.DATA_NONE | raw.TRIGGER, raw.MSIX, 8, 1, 0, b""),
    ("wrap", raw.DATA_NONE | raw.TRIGGER, raw.MSIX, 0xFFFFFFFF, 2, 0, b""),
    ("wrap with data", raw.DATA_BOOL | raw.MASK, raw.MSIX, 1, 0xFFFFFFFF, 0, b"\1"),
    ("two data", raw.DATA_NONE | raw.DATA_BOOL | raw.MASK, raw.MSIX, 0, 1, 0, b"\1"),
    ("two data, eventfd", raw.DATA_NONE | raw.DATA_EVENTFD | raw.TRIGGER, raw.MSIX, 0, 1, 1, b""),
    ("two actions", raw.DATA_NONE | raw.MASK | raw.UNMASK, raw.MSIX, 0, 1, 0, b""),
    ("no action", raw.DATA_NONE, raw.MSIX, 0, 1, 0, b""),
    ("no data", raw.TRIGGER, raw.MSIX, 0, 1, 0, b""),
    ("unknown flag", raw.DATA_NONE | raw.TRIGGER | 0x40, raw.MSIX, 0, 1, 0, b""),
    ("short booleans", raw.DATA_BOOL | raw.MASK, raw.MSIX, 0, 4, 0, b"\1\1"),
    ("fds with none", raw.DATA_NONE | raw.TRIGGER, raw.MSIX, 0, 1, 1, b""),
    ("fds with booleans", raw.DATA_BOOL | raw.MASK, raw.MSIX, 0, 1, 1, b"\1"),
    ("fewer fds", raw.DATA_EVENTFD | raw.TRIGGER, raw.MSIX, 0, 3, 2, b""),
    ("more fds", raw.DATA_EVENTFD | raw.TRIGGER, raw.MSIX, 0, 1, 2, b""),
    ("fds beyond count", raw.DATA_EVENTFD | raw.TRIGGER, raw.MSIX, 7, 2, 2, b""),
]


@pytest.mark.parametrize(
    ("flags", "index", "start", "count", "fds", "data"), [s[1:] for s in SHAPES], ids=[s[0] for s in SHAPES]
)
def test_set_irqs_of_a_wrong_shape_is_einval(
    server: Server,
    client: raw.Client,
    eventfds: Eventfds,
    flags: int,
    index: int,
    start: int,
    count: int,
    fds: int,
    data: bytes,
) -> None:
    """S2.22, S3.17: EINVAL, nothing changed, descriptors closed."""
    events = armed(client, raw.MSIX, eventfds(8))
    before = server.descriptors()
    with refused(errno.EINVAL):
        client.set_irqs(flags, index, start, count, [event.fd for event in eventfds(fds)], data)
    assert counts(client, events) == [0] * 8
    trigger(client, 0)
    assert counts(client, events) == [1, 0, 0, 0, 0, 0, 0, 0]
    assert eventually(lambda: server.descriptors() == before)


def test_set_irqs_with_something_else_than_an_eventfd_is_refused(
    server: Server, client: raw.Client, memory: int
) -> None:
    """Issue 2: a descriptor in SET_IRQS must be an eventfd; a pipe, a memfd or a folder is refused and closed."""
    before = server.descriptors()
    ours = [*os.pipe(), os.dup(memory), os.open("/", os.O_PATH)]
    try:
        for fd in ours:
            with refused(errno.EINVAL):
                client.arm(raw.MSIX, [fd])
        assert eventually(lambda: server.descriptors() == before)
    finally:
        for fd in ours:
            os.close(fd)


@pytest.mark.parametrize("index", [raw.INTX, raw.MSI, raw.MSIX, raw.ERR])
def test_set_irqs_with_a_full_eventfd_does_not_block_the_server(client: raw.Client, index: int) -> None:
    """Issue 2: signalling never blocks, a full counter of a blocking eventfd included."""
    event = Eventfd((1 << 64) - 2, os.EFD_CLOEXEC)
    try:
        client.arm(index, [event.fd])
        for _ in range(3):
            trigger(client, 0x100 if index == raw.ERR else 0)
            client.set_irqs(raw.DATA_NONE | raw.TRIGGER, index, 0, 1)
        assert client.read(raw.BAR0, 0) == 0x54534554
        assert event.fired() == (1 << 64) - 2
    finally:
        os.close(event.fd)
