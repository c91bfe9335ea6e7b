"""Registries, options, descriptors and the printed form of messages."""

import os

import pytest

from tests.session.harness import QEMU_JSON, command
from vfuserver.errors import DeclarationError, UsageError
from vfuserver.session import COMMANDS, Command, SessionOptions
from vfuserver.session.descriptors import Descriptors
from vfuserver.session.render import render
from vfuserver.wire import NO_REPLY, command_message, error_message, reply_message


def test_a_number_that_is_taken_is_a_declaration_error() -> None:
    with pytest.raises(DeclarationError, match=r"number of a command must be its own, not 2 of .*DmaMap"):

        class Twice(Command, number=2, name="TWICE"):
            """VFIO_USER_TWICE."""


@pytest.mark.parametrize("number", [0, -1, 65536])
def test_a_number_that_cannot_be_is_a_declaration_error(number: int) -> None:
    with pytest.raises(DeclarationError, match=f"must be 1 to 65535, not {number}"):

        class Bad(Command, number=number, name="BAD"):
            """VFIO_USER_BAD."""


def test_a_command_without_its_clause_is_a_declaration_error() -> None:
    with pytest.raises(DeclarationError, match="must name its clause"):

        class Bare(Command, number=999, name="BARE"):
            pass

    assert COMMANDS.get(999) is None


BAD_OPTIONS = [
    ({"max_msg_fds": 0}, "max_msg_fds must be 1 to 16, not 0"),
    ({"max_msg_fds": 17}, "max_msg_fds"),
    ({"max_data_xfer_size": 4095}, "max_data_xfer_size"),
    ({"max_data_xfer_size": (64 << 20) + 1}, "max_data_xfer_size"),
    ({"max_dma_maps": 65536}, "max_dma_maps"),
    ({"pgsizes": 0}, "pgsizes"),
    ({"pgsizes": 0x1800}, "pgsizes"),
    ({"deadline": 0}, "deadline"),
]


@pytest.mark.parametrize(("fields", "text"), BAD_OPTIONS)
def test_an_option_that_cannot_be_is_a_usage_error(fields: dict[str, int], text: str) -> None:
    """S1.14; field-notes C.2: what QEMU refuses."""
    with pytest.raises(UsageError, match=text):
        SessionOptions(**fields)  # type: ignore[arg-type]


def test_descriptors_are_closed_unless_taken() -> None:
    taken, left = os.eventfd(0), os.eventfd(0)
    with Descriptors([taken]) as fds:
        assert fds.take() == [taken]
    with Descriptors([left]) as fds:
        assert (len(fds), fds[0]) == (1, left)
    os.close(taken)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(left)


DMA_MAP = command(2).request.pack(32, 3, 0, 0x100000, 0x1000)
RENDERED = [
    (
        command_message(2, 7, DMA_MAP),
        1,
        "DMA_MAP #7 command: argsz=32 flags=READ|WRITE offset=0x0 address=0x100000 size=0x1000 (1 fd)",
    ),
    (command_message(13, 8, b"", NO_REPLY), 2, "DEVICE_RESET #8 command, no reply (2 fds)"),
    (reply_message(2, 7), 0, "DMA_MAP #7 reply"),
    (error_message(2, 7, 17), 0, "DMA_MAP #7 error: EEXIST"),
    (error_message(2, 7, 0xFFFF), 0, "DMA_MAP #7 error: 65535"),
    (command_message(20, 1, b"?"), 0, "command 20 #1 command: <1 bytes: 3f>"),
    (
        command_message(1, 1, bytes(4) + QEMU_JSON),
        0,
        f"VERSION #1 command: major=0x0 minor=0x0 data={QEMU_JSON[:-1].decode()}",
    ),
    (
        command_message(10, 2, command(10).request.build(offset=0x10, region=1, data=bytes(range(20)))),
        0,
        "REGION_WRITE #2 command: offset=0x10 region=1 count=20 data=<20 bytes: 000102030405060708090a0b0c0d0e0f...>",
    ),
    (b"short", 0, "(malformed: 5 bytes, a header has 16)"),
]


@pytest.mark.parametrize(("message", "fds", "line"), RENDERED)
def test_render_gives_one_readable_line(message: bytes, fds: int, line: str) -> None:
    assert render(message, fds) == line


def test_render_of_a_short_payload_says_so() -> None:
    assert "(malformed: 8 bytes are too few" in render(command_message(2, 7, bytes(8)))
