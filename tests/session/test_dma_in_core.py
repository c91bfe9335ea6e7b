"""DMA_MAP and DMA_UNMAP end in the same way whether the core serves them or the command does (S1.10)."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.session.device import LittleDevice
from tests.session.dma import MAP, PAGE, UNMAP
from tests.session.harness import Wire
from vfuserver.errors import CommandError
from vfuserver.session import SessionOptions

PAGES, TOP = 64, 1 << 64
ADDRESSES = st.one_of(
    st.integers(0, PAGES).map(lambda page: page * PAGE), st.sampled_from([8, TOP - PAGE, TOP - 2 * PAGE, TOP - 8])
)
SIZES = st.one_of(st.integers(0, 8).map(lambda page: page * PAGE), st.sampled_from([8, PAGE + 1, TOP - PAGE]))
OFFSETS = st.one_of(st.integers(0, PAGES).map(lambda page: page * PAGE), st.sampled_from([8, TOP - PAGE]))
MAPS = st.builds(MAP.request.pack, st.sampled_from([32, 32, 32, 31, 40]), st.integers(0, 17), OFFSETS, ADDRESSES, SIZES)
UNMAPS = st.builds(
    UNMAP.request.pack, st.sampled_from([24, 24, 24, 23]), st.sampled_from([0, 0, 0, 1, 2, 3]), ADDRESSES, SIZES
)
STEPS = st.lists(
    st.one_of(st.tuples(st.just(MAP.number), MAPS, st.integers(0, 2)), st.tuples(st.just(UNMAP.number), UNMAPS)),
    max_size=40,
)
OPTIONS = SessionOptions(max_dma_maps=8)


@pytest.fixture(scope="module")
def file() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, PAGES * PAGE)
    yield fd
    os.close(fd)


def by_command(wire: Wire, number: int, payload: bytes, fds: list[int]) -> tuple[int, bytes]:
    """(errno, payload) of the reply, past the core."""
    try:
        answer = wire.session._command(number, 1, 0, payload, [os.dup(fd) for fd in fds])
    except CommandError as error:
        return error.errno, b""
    assert isinstance(answer, bytes)
    return 0, answer


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_the_core_and_the_command_agree(steps: list[tuple[int, bytes] | tuple[int, bytes, int]], file: int) -> None:
    device = LittleDevice()
    core, command = Wire(device, OPTIONS), Wire(device, OPTIONS)
    core.negotiate()
    command.negotiate()
    for number, payload, *count in steps:
        fds = [file] * sum(count)
        (reply,) = core.send(number, payload, fds)
        assert (reply.errno, reply.payload) == by_command(command, number, payload, fds)
        places = [[area[:4] for area in wire.session.connection.ioas.areas()] for wire in (core, command)]
        assert places[0] == places[1]
    core.close()
    command.close()
    device.close()
