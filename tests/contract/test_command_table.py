"""One table over every command that is answered: a good request, and what each way of spoiling it gets.

ROWS has what cannot be derived from a declaration; a served command without a row fails the first test. The columns
are the tests: short payload, wrong argsz, too many descriptors, forbidden state, No_reply, unknown flags, and the
same in the middle of a pipeline.
"""

import errno
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.session.device import SCRATCH, SLOW, LittleDevice
from tests.session.harness import EVERYTHING, QEMU_JSON, Message, Wire, command
from tests.session.migrating import MigratingDevice, put
from vfuserver.session import COMMANDS, Command, Direction
from vfuserver.session.commands.version import Version
from vfuserver.vfio import MigrationState, PciRegion
from vfuserver.wire import NO_REPLY, command_message

PAGE = 4096
ANY_FLAGS = 0xFFFFFFFF


class Row(NamedTuple):
    """`good` is answered with `answer`; `flags` are the defined bits of its flags field (ANY_FLAGS: not looked at)."""

    good: bytes
    answer: int = 0
    flags: int = ANY_FLAGS
    huge_argsz: int = 0
    """The errno of an argsz of 4 GiB - 1: it is how much the client takes, unless it is the size of the data."""
    state: MigrationState = MigrationState.RUNNING
    """In which the request is good."""


def _pack(number: int, *values: int) -> bytes:
    return command(number).request.pack(*values)


WRITES = [{"offset": SCRATCH, "region": 0, "count": 4, "data": bytes(8)}]
ROWS = {
    "VERSION": Row(Version.request.build(major=0, minor=0, data=QEMU_JSON)),
    "DMA_MAP": Row(_pack(2, 32, 3, 0, PAGE, PAGE), flags=0b11),  # the modes need a descriptor
    "DMA_UNMAP": Row(_pack(3, 24, 2, 0, 0), flags=0b10),
    "DEVICE_GET_INFO": Row(_pack(4, 16, 0, 0, 0)),
    "DEVICE_GET_REGION_INFO": Row(_pack(5, 32, 0, 0, 0, 0, 0)),
    "DEVICE_GET_REGION_IO_FDS": Row(_pack(6, 16, 0, 0, 0), flags=0),
    "DEVICE_GET_IRQ_INFO": Row(_pack(7, 16, 0, 0, 0)),
    "DEVICE_SET_IRQS": Row(_pack(8, 20, 0x21, 0, 0, 0), flags=0x3F, huge_argsz=errno.EINVAL),
    "REGION_READ": Row(_pack(9, SCRATCH, 0, 4)),
    "REGION_WRITE": Row(_pack(10, SCRATCH, 0, 4) + b"good"),
    "DEVICE_RESET": Row(b""),
    "DIRTY_PAGES": Row(_pack(14, 8, 1), flags=1),
    "REGION_WRITE_MULTI": Row(command(15).request.build(wrs=WRITES)),
    "DEVICE_FEATURE": Row(_pack(16, 8, 0x1FFFF), answer=errno.ENOTTY, flags=0x7FFFF),
    "MIG_DATA_READ": Row(_pack(17, 12, 4), state=MigrationState.STOP_COPY),
    "MIG_DATA_WRITE": Row(_pack(18, 12, 4) + b"good", state=MigrationState.RESUMING),
    "GET_PRECOPY_INFO": Row(_pack(19, 24, 0, 0, 0), state=MigrationState.PRE_COPY),
}

ANSWERED = [one for one in COMMANDS.all() if one.direction is Direction.TO_SERVER and (one.served or one.in_core)]
TABLE = [one for one in ANSWERED if one.name in ROWS]


def each(commands: list[type[Command]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("one", commands, ids=lambda one: one.name)


def has(one: type[Command], field: str) -> bool:
    return field in one.request.names[:2]


def with_field(one: type[Command], field: str, value: int) -> bytes:
    """The good request with another argsz or flags."""
    good = bytearray(ROWS[one.name].good)
    struct.pack_into("=I", good, 4 * one.request.names.index(field), value)
    return bytes(good)


@pytest.fixture
def device() -> Iterator[MigratingDevice]:
    backend = MigratingDevice()
    yield backend
    backend.close()


@pytest.fixture
def wire(device: MigratingDevice, request: pytest.FixtureRequest) -> Iterator[Wire]:
    """A connection in the state in which the test's command is legal."""
    wire = Wire(device, EVERYTHING)
    if request.node.callspec.params["one"] is not Version:
        wire.negotiate()
        put(device, ROWS[request.node.callspec.params["one"].name].state)
    yield wire
    wire.close()


def fine(wire: Wire, one: type[Command]) -> None:
    """The good request gets its answer: nothing that came before it has done harm."""
    reply = wire.ask(one, ROWS[one.name].good)
    assert reply.errno == ROWS[one.name].answer
    assert wire.session.stream.broken is None


def refused(wire: Wire, one: type[Command], payload: bytes, expected: int = errno.EINVAL, fds: int = 0) -> None:
    """An error of a bare header, nothing done, every descriptor closed, and a connection that goes on."""
    assert isinstance(wire.backend, LittleDevice)
    log, areas, before = list(wire.backend.log), wire.session.connection.ioas.count, os.listdir("/proc/self/fd")
    reply = wire.ask(one, payload, [0] * fds)
    assert (reply.errno, reply.payload, reply.fds) == (expected, b"", ())
    assert wire.backend.log == log
    assert wire.session.connection.ioas.count == areas
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_every_command_that_is_answered_has_a_row() -> None:
    assert {one.name for one in ANSWERED} == set(ROWS)


@each(TABLE)
def test_good_request_is_answered(one: type[Command], wire: Wire) -> None:
    fine(wire, one)


# -- short payload


@each([one for one in TABLE if one.request.size])
def test_good_request_cut_short_is_einval(one: type[Command], wire: Wire) -> None:
    """S3.17: fixed-size structures must be complete."""
    for length in range(one.request.size):
        refused(wire, one, ROWS[one.name].good[:length])
    fine(wire, one)


# -- wrong argsz


@each([one for one in TABLE if has(one, "argsz")])
def test_argsz_below_the_fixed_part_is_einval(one: type[Command], wire: Wire) -> None:
    """S1.10, S0.3: argsz must cover what the command always needs."""
    for argsz in range(one.request.size):
        refused(wire, one, with_field(one, "argsz", argsz))
    fine(wire, one)


@each([one for one in TABLE if has(one, "argsz")])
def test_huge_argsz_is_room_or_a_lie(one: type[Command], wire: Wire) -> None:
    """S3.17; a reply is never longer than what there is to say."""
    row = ROWS[one.name]
    reply = wire.ask(one, with_field(one, "argsz", 0xFFFFFFFF))
    assert reply.errno == (row.huge_argsz or row.answer)
    assert len(reply.payload) <= 256


# -- too many descriptors


@each(TABLE)
def test_surplus_descriptors_of_a_good_request_are_einval_and_closed(one: type[Command], wire: Wire) -> None:
    """S1.10: more descriptors than the command takes; the request itself has no fault."""
    for fds in (one.max_fds + 1, one.max_fds + 9):
        refused(wire, one, ROWS[one.name].good, fds=fds)
    fine(wire, one)


# -- forbidden state


@each([one for one in TABLE if one is not Version])
def test_good_request_before_version_closes(one: type[Command], device: LittleDevice) -> None:
    """requirements.md: a command before VERSION closes the connection."""
    fresh = Wire(device, EVERYTHING)
    assert fresh.send(one.number, ROWS[one.name].good) == []
    assert "before VERSION" in (fresh.session.stream.broken or "")
    assert device.log == []
    fresh.close()


@each([one for one in TABLE if one is not Version])
def test_good_request_waits_while_a_command_is_held(one: type[Command], wire: Wire, device: LittleDevice) -> None:
    """S1.11: completed in order of arrival."""
    assert wire.send(9, _pack(9, SLOW, 0, 4)) == []
    log = list(device.log)
    assert wire.send(one.number, ROWS[one.name].good) == []
    assert device.log == log
    assert device.later
    device.later.set_result(7)
    held, waited = wire.take()
    assert held.payload[-4:] == b"\7\0\0\0"
    assert (waited.header.command, waited.errno) == (one.number, ROWS[one.name].answer)


# -- No_reply


@each(TABLE)
def test_no_reply_is_silent_for_good_and_bad(one: type[Command], wire: Wire) -> None:
    """vfio-user specification, Header: errors are silent too, and the next command is answered."""
    if one.request.size:
        assert wire.send(one.number, b"", flags=NO_REPLY) == []
    assert wire.send(one.number, ROWS[one.name].good, [0] * (one.max_fds + 1), flags=NO_REPLY) == []
    assert wire.send(one.number, ROWS[one.name].good, flags=NO_REPLY) == []
    assert wire.session.stream.broken is None
    assert wire.ask(command(4), _pack(4, 16, 0, 0, 0)).errno == 0


# -- unknown flags


@each([one for one in TABLE if has(one, "flags") and ROWS[one.name].flags != ANY_FLAGS])
def test_undefined_flag_bit_is_einval(one: type[Command], wire: Wire) -> None:
    """S3.17, S1.10, S2.22, S0.3: each undefined bit, beside flags that are good."""
    (flags,) = struct.unpack_from("=I", ROWS[one.name].good, 4 * one.request.names.index("flags"))
    for bit in range(32):
        if not ROWS[one.name].flags & 1 << bit:
            refused(wire, one, with_field(one, "flags", flags | 1 << bit))
    fine(wire, one)


@each([one for one in TABLE if has(one, "flags") and ROWS[one.name].flags == ANY_FLAGS])
def test_flags_that_only_a_reply_has_are_ignored(one: type[Command], wire: Wire) -> None:
    """S3.17: of an info request argsz and index count."""
    spoiled = wire.ask(one, with_field(one, "flags", 0xFFFFFFFF))
    assert spoiled.errno == 0
    assert spoiled.payload == wire.ask(one, ROWS[one.name].good).payload


@each(TABLE)
@pytest.mark.parametrize("flags", [1 << 5, 1 << 6, 1 << 31, 0xFFFFFFE0])
def test_reserved_bits_of_the_header_are_ignored_and_not_sent_back(one: type[Command], wire: Wire, flags: int) -> None:
    """S3.17: reserved fields are ignored on receipt and sent as zero; a command's Error bit means nothing."""
    (reply,) = wire.send(one.number, ROWS[one.name].good, flags=flags)
    assert reply.errno == ROWS[one.name].answer
    assert reply.header.flags == (0x21 if reply.errno else 1)


# -- in the middle of a pipeline


@each([one for one in TABLE if one is not Version])
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_one_failure_among_1000_pipelined_commands_errs_alone(one: type[Command], wire: Wire, batch: int) -> None:
    """S1.11: replies in order of arrival, and only the command that failed errs."""
    bad = ROWS[one.name].good[: one.request.size - 1] if one.request.size else b""
    messages = [_pipelined(n) for n in range(1000)]
    messages[500] = command_message(one.number, 500, bad)
    fds: dict[int, list[int]] = {} if one.request.size else {500: [0]}
    replies: list[Message] = []
    for start in range(0, 1000, batch):
        carried = [fd for at, given in fds.items() if start <= at < start + batch for fd in given]
        split = 501 - start if carried else 0  # descriptors belong to the message that ends what came with them
        replies += wire.feed(b"".join(messages[start : start + split]), carried) if split else []
        replies += wire.feed(b"".join(messages[start + split : start + batch]))
    assert [reply.header.message_id for reply in replies] == list(range(1000))
    assert {n: reply.errno for n, reply in enumerate(replies) if reply.errno} == {500: errno.EINVAL}
    assert [int.from_bytes(reply.payload[16:20], "little") for reply in replies[3::8]] == list(range(2, 1000, 8))
    assert wire.session.connection.ioas.count == 0


def _pipelined(n: int) -> bytes:
    """Commands that succeed whatever fails between them: each write is read back, each area is unmapped."""
    kinds = (
        (2, _pack(2, 32, 3, 0, PAGE * (1 + n // 8), PAGE)),
        (4, _pack(4, 16, 0, 0, 0)),
        (10, _pack(10, SCRATCH, 0, 4) + n.to_bytes(4, "little")),
        (9, _pack(9, SCRATCH, 0, 4)),
        (3, _pack(3, 24, 2, 0, 0)),
        (7, _pack(7, 16, 0, n % 5, 0)),
        (9, _pack(9, 0, PciRegion.CONFIG, 256)),
        (8, _pack(8, 20, 0x21, n % 4, 0, 0)),
    )
    number, payload = kinds[n % 8]
    return command_message(number, n, payload)
