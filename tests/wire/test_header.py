"""The header of every message."""

import pytest
from hypothesis import given

from tests.wire.strategies import values
from vfuserver._core import STRUCTS
from vfuserver.wire import (
    HEADER,
    HEADER_SIZE,
    NO_REPLY,
    LayoutError,
    command_message,
    error_message,
    reply_message,
    split_message,
)


def test_header_has_sixteen_bytes() -> None:
    assert HEADER.size == HEADER_SIZE == 16


@given(values(HEADER))
def test_header_round_trips(fields: dict[str, int]) -> None:
    data = HEADER.build(**fields)
    assert HEADER.unpack(data) == tuple(fields[name] for name in HEADER.names)


def test_header_in_c_has_the_same_fields() -> None:
    size, fields = STRUCTS["header"]
    assert size == HEADER.size
    assert [place for place, _ in sorted(fields.values())] == [0, 2, 4, 8, 12]


def test_command_message_is_a_command() -> None:
    header, payload = split_message(command_message(2, 7, b"abc", NO_REPLY))
    assert (header.command, header.message_id, header.size, header.flags, header.error) == (2, 7, 19, 0x10, 0)
    assert (header.is_reply, header.is_error, payload) == (False, False, b"abc")


def test_reply_message_is_a_reply() -> None:
    header, payload = split_message(reply_message(2, 7, b"abc"))
    assert (header.is_reply, header.is_error, header.flags, payload) == (True, False, 1, b"abc")


def test_error_message_is_a_header_only() -> None:
    header, payload = split_message(error_message(2, 7, 22))
    assert (header.is_reply, header.is_error, header.error, header.size, payload) == (True, True, 22, 16, b"")


def test_split_message_too_short_fails() -> None:
    with pytest.raises(LayoutError):
        split_message(bytes(15))
