"""DEVICE_FEATURE: the generic checks of S0.3, in their order."""

import errno
import struct
from collections.abc import Iterator

import pytest

from tests.session.harness import Message, Wire, command
from vfuserver.errors import CommandError, DeclarationError
from vfuserver.session import FEATURES
from vfuserver.session.connection import Connection
from vfuserver.session.feature import Feature, Operation, answer
from vfuserver.vfio import Later
from vfuserver.wire import U32, U64, Layout

READ_WRITE, READ_ONLY = 0x7001, 0x7002
GET, SET, PROBE = Operation.GET, Operation.SET, Operation.PROBE
FEATURE = command(16)


def ask(wire: Wire, index: int, flags: int, data: bytes = b"", argsz: int = 4096) -> Message:
    return wire.ask(FEATURE, FEATURE.request.build(argsz=argsz, flags=index | flags, data=data))


COMBINATIONS = {
    0: errno.ENOTTY,
    GET: errno.ENOTTY,
    SET: errno.ENOTTY,
    PROBE: errno.ENOTTY,
    GET | SET: errno.EINVAL,
    GET | PROBE: errno.ENOTTY,
    SET | PROBE: errno.ENOTTY,
    GET | SET | PROBE: errno.ENOTTY,
}


@pytest.mark.parametrize("index", [0, 3, 11, 0xFFFF])
@pytest.mark.parametrize("flags", COMBINATIONS, ids=str)
def test_unknown_feature_is_enotty_after_the_flag_checks(wire: Wire, index: int, flags: int) -> None:
    """S0.3 and requirements.md, page 1: after flag bits and GET with SET, before the operation checks."""
    assert ask(wire, index, flags).errno == COMBINATIONS[Operation(flags)]


@pytest.mark.parametrize("bit", range(19, 32))
def test_undefined_flag_bits_come_before_the_feature(wire: Wire, bit: int) -> None:
    assert ask(wire, 3, GET | 1 << bit).errno == errno.EINVAL


@pytest.mark.parametrize("argsz", [0, 7])
def test_argsz_below_eight_comes_first(wire: Wire, argsz: int) -> None:
    assert ask(wire, 3, GET, argsz=argsz).errno == errno.EINVAL


# -- with a feature


Features = dict[int, type[Feature]]


class Counter:
    """State of the feature under test."""

    value = 5


@pytest.fixture
def features() -> Iterator[Features]:
    """READ_WRITE (GET gives 8 bytes for 4, SET takes 8) and READ_ONLY, registered for the length of one test."""
    Counter.value = 5

    class ReadWrite(Feature, number=READ_WRITE, name="READ_WRITE", operations=GET | SET):
        get_request = Layout("scale" / U32)
        set_request = Layout("value" / U64)
        reply = Layout("value" / U64)

        @classmethod
        def get(cls, connection: Connection, data: bytes) -> bytes:
            return cls.reply.pack(Counter.value * cls.get_request.unpack(data)[0])

        @classmethod
        def set(cls, connection: Connection, data: bytes) -> bytes:
            (Counter.value,) = cls.set_request.unpack(data)
            return data

    class ReadOnly(Feature, number=READ_ONLY, name="READ_ONLY", operations=GET):
        @classmethod
        def get(cls, connection: Connection, data: bytes) -> bytes:
            return b""

    yield {READ_WRITE: ReadWrite, READ_ONLY: ReadOnly}
    for number in (READ_WRITE, READ_ONLY):
        del FEATURES._classes[number]


def run(
    wire: Wire, features: Features, index: int, flags: int, data: bytes = b"", argsz: int = 4096
) -> bytes | bytearray | int:
    """The reply's data, or the errno."""
    flags |= index
    payload = struct.pack("=II", argsz, flags) + data
    try:
        reply = answer(wire.session.connection, features.get, argsz, flags, payload)
    except CommandError as error:
        return error.errno
    assert not isinstance(reply, Later)
    assert struct.unpack_from("=I", reply, 4) == (flags,)
    return reply


def test_get_gives_data_and_the_argsz_of_the_reply(wire: Wire, features: Features) -> None:
    assert run(wire, features, READ_WRITE, GET, struct.pack("=I", 3)) == struct.pack("=IIQ", 16, READ_WRITE | GET, 15)


def test_get_with_too_small_an_argsz_says_what_it_needs(wire: Wire, features: Features) -> None:
    """S3.19: header-only data with the required argsz."""
    assert run(wire, features, READ_WRITE, GET, struct.pack("=I", 3), argsz=15) == struct.pack(
        "=II", 16, READ_WRITE | GET
    )


def test_set_echoes_the_request(wire: Wire, features: Features) -> None:
    data = struct.pack("=Q", 77)
    assert run(wire, features, READ_WRITE, SET, data) == struct.pack("=II", 4096, READ_WRITE | SET) + data
    assert Counter.value == 77


@pytest.mark.parametrize(("flags", "length"), [(GET, 3), (SET, 7)])
def test_too_little_data_is_einval(wire: Wire, features: Features, flags: int, length: int) -> None:
    """S0.3: data shorter than the feature minimum."""
    assert run(wire, features, READ_WRITE, flags, bytes(length)) == errno.EINVAL
    assert Counter.value == 5


@pytest.mark.parametrize("asked", [PROBE, PROBE | GET, PROBE | SET, PROBE | GET | SET])
def test_probe_of_supported_operations_succeeds_without_data(wire: Wire, features: Features, asked: int) -> None:
    assert run(wire, features, READ_WRITE, asked, b"ignored") == struct.pack("=II", 4096, READ_WRITE | asked)
    assert Counter.value == 5


@pytest.mark.parametrize("asked", [SET, PROBE | SET, PROBE | GET | SET, 0])
def test_an_operation_that_is_lacking_is_einval_under_probe_too(wire: Wire, features: Features, asked: int) -> None:
    assert run(wire, features, READ_ONLY, asked) == errno.EINVAL


def test_get_and_set_together_need_probe(wire: Wire, features: Features) -> None:
    assert run(wire, features, READ_WRITE, GET | SET, bytes(8)) == errno.EINVAL


def test_a_number_that_cannot_be_is_a_declaration_error() -> None:
    with pytest.raises(DeclarationError, match="must be 1 to 65535, not 65536"):

        class Bad(Feature, number=0x10000, name="BAD", operations=GET):
            """Too large."""


def test_a_number_that_is_taken_is_a_declaration_error(features: Features) -> None:
    with pytest.raises(DeclarationError, match="ReadOnly"):

        class Twice(Feature, number=READ_ONLY, name="TWICE", operations=GET):
            """Taken."""

    assert FEATURES.get(READ_ONLY) is features[READ_ONLY]
