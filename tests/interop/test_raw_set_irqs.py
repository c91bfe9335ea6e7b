"""SET_IRQS to the letter: every pair of data and action, on every index, at every edge of its vectors (S2.22).

The table is a plain product; `legal` is the specification in one function, written without a look at the server's.
"""

import contextlib
import errno
import itertools
import os
import struct
from collections.abc import Callable

import pytest

from tests.interop import raw_client as raw
from tests.interop.conftest import Eventfd, Server, eventually, refused

Eventfds = Callable[..., list[Eventfd]]

COUNTS = {raw.INTX: 1, raw.MSI: 4, raw.MSIX: 8, raw.ERR: 1, raw.REQ: 1}
"""testdev's vectors."""
MASKABLE = (raw.INTX, raw.MSI, raw.MSIX)
INDEXES = {"INTX": raw.INTX, "MSI": raw.MSI, "MSIX": raw.MSIX, "ERR": raw.ERR, "REQ": raw.REQ, "unknown": 5}
DATA = {"none": raw.DATA_NONE, "bool": raw.DATA_BOOL, "eventfd": raw.DATA_EVENTFD}
ACTIONS = {"mask": raw.MASK, "unmask": raw.UNMASK, "trigger": raw.TRIGGER}
SHAPES = list(itertools.product(DATA, ACTIONS))
PLACES: dict[str, Callable[[int], tuple[int, int]]] = {
    "first": lambda n: (0, 1),
    "last": lambda n: (n - 1, 1),
    "all": lambda n: (0, n),
    "one too many": lambda n: (0, n + 1),
    "over the end": lambda n: (n - 1, 2),
    "behind the end": lambda n: (n, 1),
    "nothing": lambda n: (0, 0),
    "nothing, later": lambda n: (n, 0),
    "far": lambda n: (0xFFFFFFFF, 1),
    "wrap to zero": lambda n: (0xFFFFFFFF, 2),
    "everything": lambda n: (0, 0xFFFFFFFF),
}


def legal(data: int, action: int, index: int, start: int, count: int, fds: int) -> bool:
    """The specification, DEVICE_SET_IRQS, with S2.22."""
    if index not in COUNTS or (fds and data != raw.DATA_EVENTFD):
        return False
    if count == 0:
        return (data, action, start) == (raw.DATA_NONE, raw.TRIGGER, 0)
    if action != raw.TRIGGER and index not in MASKABLE:
        return False
    return start + count <= COUNTS[index] and fds in (0, count)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize(("data", "action"), SHAPES)
def test_shape_is_taken_or_refused_as_specified(
    server: Server, client: raw.Client, eventfds: Eventfds, data: str, action: str, index: str, place: str
) -> None:
    """S2.22, S3.17: EINVAL changes nothing and closes what came with it."""
    where, n = INDEXES[index], COUNTS.get(INDEXES[index], 1)
    start, count = PLACES[place](n)
    fds = eventfds(n + 2)
    (witness,) = eventfds()
    for given in sorted({0, 1, min(count, n + 1), min(count, n + 1) + 1}):
        if where in COUNTS:
            client.set_irqs(raw.DATA_NONE | raw.TRIGGER, where)
            client.arm(where, [witness.fd])
        before = server.descriptors()
        fine = legal(DATA[data], ACTIONS[action], where, start, count, given)
        with contextlib.nullcontext() if fine else refused(errno.EINVAL):
            client.set_irqs(
                DATA[data] | ACTIONS[action],
                where,
                start,
                count,
                [event.fd for event in fds[:given]],
                b"\1" * min(count, 16) if data == "bool" else b"",
            )
        if not fine:
            assert eventually(lambda before=before: server.descriptors() == before)  # type: ignore[misc]
            assert witness.fired() == 0
            if where in COUNTS:
                client.set_irqs(raw.DATA_NONE | raw.TRIGGER, where, 0, 1)
                assert witness.fired() == 1
        witness.fired()


@pytest.mark.parametrize(("data", "action"), SHAPES)
@pytest.mark.parametrize("surplus", [0, 5])
def test_argsz_is_at_least_twenty_and_at_most_what_came(
    client: raw.Client, data: str, action: str, surplus: int
) -> None:
    """S2.22, S3.17: QEMU says 20 whatever it sends; more than the payload is a lie."""
    payload = (b"\1" if data == "bool" else b"") + bytes(surplus)
    for argsz in (0, 19, 20, 20 + len(payload), 21 + len(payload), 0xFFFFFFFF):
        request = struct.pack("=5I", argsz, DATA[data] | ACTIONS[action], raw.MSIX, 0, 1) + payload
        with contextlib.nullcontext() if 20 <= argsz <= 20 + len(payload) else refused(errno.EINVAL):
            client.request(raw.SET_IRQS, request)


@pytest.mark.parametrize("name", [name for name in INDEXES if name != "unknown"])
def test_irq_info_says_what_is_true(client: raw.Client, eventfds: Eventfds, name: str) -> None:
    """S2.22: EVENTFD, MASKABLE, AUTOMASKED and NORESIZE are what a client then sees."""
    index, events = INDEXES[name], eventfds(2)
    argsz, flags, said, count = client.irq_info(index)
    assert (argsz, said, count) == (16, index, COUNTS[index])
    client.arm(index, [events[0].fd])  # EVENTFD
    for action in (raw.MASK, raw.UNMASK):
        with contextlib.nullcontext() if flags & 2 else refused(errno.EINVAL):  # MASKABLE
            client.set_irqs(raw.DATA_NONE | action, index, 0, 1)
    if count > 1:  # not NORESIZE: more vectors without a disable
        client.arm(index, [events[1].fd], count - 1)
        client.set_irqs(raw.DATA_NONE | raw.TRIGGER, index, count - 1, 1)
        assert events[1].fires() == 1
    raised = {raw.ERR: 0x100, raw.REQ: 0x101}.get(index, 0)
    for _ in range(2):
        client.write(raw.BAR0, 0x18, raised)
        client.write(raw.BAR0, 0x1C, 0)
    assert events[0].fires() == 2  # not AUTOMASKED
    assert flags == (3 if index in MASKABLE else 1)


def test_a_vector_of_every_index_survives_the_whole_table(client: raw.Client, eventfds: Eventfds) -> None:
    """S2.22: all indexes at once, each with its own eventfds for all three actions."""
    for index, count in COUNTS.items():
        actions = ACTIONS.values() if index in MASKABLE else [raw.TRIGGER]
        for action in actions:
            client.set_irqs(raw.DATA_EVENTFD | action, index, 0, count, [event.fd for event in eventfds(count)])
    triggers = {index: eventfds(count) for index, count in COUNTS.items()}
    for index, events in triggers.items():
        client.arm(index, [event.fd for event in events])
        client.set_irqs(raw.DATA_BOOL | raw.TRIGGER, index, 0, len(events), data=b"\1" * len(events))
        assert [event.fired() for event in events] == [1] * len(events)


def test_a_pipe_among_eventfds_is_refused_as_a_whole(server: Server, client: raw.Client, eventfds: Eventfds) -> None:
    """S2.22: none of a refused message's descriptors is kept, wherever the wrong one stands."""
    before = server.descriptors()
    ends = os.pipe()
    try:
        for at in range(3):
            fds = [event.fd for event in eventfds(2)]
            fds.insert(at, ends[0])
            with refused(errno.EINVAL):
                client.arm(raw.MSIX, fds)
        assert eventually(lambda: server.descriptors() == before)
    finally:
        for end in ends:
            os.close(end)
