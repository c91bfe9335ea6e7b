"""DMA_MAP and DMA_UNMAP that the stream serves itself, and those that it leaves to the command (S1.10)."""

import os
import struct
from collections.abc import Iterator

import pytest

from tests.native.messages import NO_REPLY, message
from tests.native.streams import Peer
from vfuserver import _core

MAP, UNMAP = 2, 3
PAGE, SIZE, BASE = 4096, 1 << 20, 0x40000000


def map_(iova: int = BASE, size: int = PAGE, flags: int = 3, offset: int = 0, *, argsz: int = 32, **more: int) -> bytes:
    return message(MAP, struct.pack("=IIQQQ", argsz, flags, offset, iova, size), **more)


def unmap(iova: int = BASE, size: int = PAGE, flags: int = 0, *, argsz: int = 24, **more: int) -> bytes:
    return message(UNMAP, struct.pack("=IIQQ", argsz, flags, iova, size), **more)


@pytest.fixture
def ioas(peer: Peer) -> Iterator[_core.Ioas]:
    ioas = _core.Ioas(max_areas=4)
    peer.stream.serve_dma(ioas, PAGE)
    yield ioas
    ioas.clear()


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, SIZE)
    yield fd
    os.close(fd)


WAYS = {3: 1, 3 | 4: 1, 3 | 8: 2, 3 | 12: 1, 1: 1, 2: 1}


@pytest.mark.parametrize("flags", WAYS)
def test_a_plain_map_is_done_and_its_descriptor_closed(peer: Peer, ioas: _core.Ioas, memory: int, flags: int) -> None:
    """field-notes A.1: the mode bits say how."""
    assert peer.feed(map_(flags=flags, offset=PAGE, tag=7), [os.dup(memory)]) == [(7, MAP, 1, 0, b"")]
    (area,) = ioas.areas()
    assert (area[:4], area[5]) == ((BASE, PAGE, flags & 3, WAYS[flags]), PAGE)
    assert peer.commands == []


def test_a_plain_map_without_a_descriptor_is_reached_by_messages(peer: Peer, ioas: _core.Ioas) -> None:
    assert peer.feed(map_()) == [(1, MAP, 1, 0, b"")]
    assert ioas.areas() == [(BASE, PAGE, 3, _core.ACCESS_MESSAGES, 0, 0)]


def test_a_plain_unmap_repeats_its_request(peer: Peer, ioas: _core.Ioas) -> None:
    """S1.9: 24 bytes, whatever follows them."""
    ioas.map(BASE, PAGE, 3)
    ioas.map(BASE + 4 * PAGE, PAGE, 3)
    request = unmap(BASE, 5 * PAGE)
    assert peer.feed(message(UNMAP, request[16:] + b"more")) == [(1, UNMAP, 1, 0, request[16:])]
    assert (ioas.count, peer.commands) == (0, [])


def test_posted_commands_are_done_without_a_reply(peer: Peer, ioas: _core.Ioas) -> None:
    assert peer.feed(message(MAP, map_()[16:], flags=NO_REPLY)) == []
    assert ioas.count == 1
    assert peer.feed(message(UNMAP, unmap()[16:], flags=NO_REPLY)) == []
    assert ioas.count == 0


LEFT = {
    "map: short": message(MAP, bytes(31)),
    "map: argsz": map_(argsz=31),
    "map: no permission": map_(flags=0),
    "map: undefined flag": map_(flags=3 | 16),
    "map: a mode without a descriptor": map_(flags=3 | 4),
    "map: empty": map_(size=0),
    "map: misaligned": map_(BASE + 8),
    "map: wrap": map_((1 << 64) - PAGE, 2 * PAGE),
    "map: overlap": map_(BASE + 16 * PAGE),
    "unmap: short": message(UNMAP, bytes(23)),
    "unmap: argsz": unmap(argsz=23),
    "unmap: all": unmap(0, 0, 2),
    "unmap: bitmap": unmap(flags=1),
    "unmap: nothing there": unmap(),
    "unmap: cuts an area": unmap(BASE + 16 * PAGE, PAGE),
    "unmap: misaligned": unmap(BASE + 16 * PAGE, 2 * PAGE + 1),
    "unmap: wrap": unmap((1 << 64) - PAGE, 2 * PAGE),
}


@pytest.mark.parametrize("case", LEFT)
def test_whatever_would_be_refused_is_the_commands(peer: Peer, ioas: _core.Ioas, case: str) -> None:
    """S1.10: the rules and their messages stand in one place."""
    ioas.map(BASE + 16 * PAGE, 2 * PAGE, 3)
    before = ioas.areas()
    peer.feed(LEFT[case])
    assert [(number, payload) for number, _, _, payload, _ in peer.commands] == [(LEFT[case][2], LEFT[case][16:])]
    assert ioas.areas() == before


FILES_LEFT = {
    "offset misaligned": map_(offset=8),
    "beyond the file": map_(offset=SIZE),
    "beyond the file, by file I/O": map_(flags=3 | 8, offset=SIZE),
}


@pytest.mark.parametrize("case", FILES_LEFT)
def test_a_file_that_does_not_suit_stays_with_its_message(peer: Peer, ioas: _core.Ioas, memory: int, case: str) -> None:
    """S1.12: the descriptor goes to the command, once."""
    peer.feed(FILES_LEFT[case], [os.dup(memory)])
    assert len(peer.commands[0][4]) == 1
    assert ioas.count == 0


def test_two_descriptors_and_a_full_table_are_the_commands(peer: Peer, ioas: _core.Ioas, memory: int) -> None:
    """S1.10, S1.14."""
    peer.feed(map_(), [os.dup(memory), os.dup(memory)])
    peer.feed(b"".join(map_(BASE + i * PAGE) for i in range(5)))
    assert [len(fds) for *_, fds in peer.commands] == [2, 0]
    assert ioas.count == 4


def test_a_descriptor_that_comes_with_an_unmap_is_the_commands(peer: Peer, ioas: _core.Ioas, memory: int) -> None:
    ioas.map(BASE, PAGE, 3)
    peer.feed(unmap(), [os.dup(memory)])
    assert (len(peer.commands[0][4]), ioas.count) == (1, 1)


def test_an_unmap_that_may_concern_somebody_is_the_commands(peer: Peer, ioas: _core.Ioas, memory: int) -> None:
    """S1.9: views, and transfers by messages."""
    ioas.map(BASE, PAGE, 3, memory)
    view = _core.Pin(ioas, BASE, PAGE, 1)
    peer.feed(unmap())
    view.revoke()
    peer.stream.dma_transfers = 1
    peer.feed(unmap())
    assert (len(peer.commands), ioas.count) == (2, 1)
    peer.stream.dma_transfers = 0
    peer.feed(unmap())
    assert (len(peer.commands), ioas.count) == (2, 0)


def test_pages_are_as_large_as_was_said(peer: Peer, ioas: _core.Ioas) -> None:
    """S1.10: misaligned to pgsizes."""
    peer.stream.serve_dma(ioas, 4 * PAGE)
    peer.feed(map_(size=PAGE) + map_(BASE + PAGE, 4 * PAGE) + map_(BASE, 4 * PAGE))
    assert (len(peer.commands), ioas.count) == (2, 1)


@pytest.mark.parametrize("page", [0, 3, 4097])
def test_a_page_that_is_no_power_of_two_is_refused(peer: Peer, ioas: _core.Ioas, page: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        peer.stream.serve_dma(ioas, page)


def test_before_version_and_after_close_nothing_is_mapped(peer: Peer, ioas: _core.Ioas) -> None:
    peer.stream.negotiated = False
    peer.feed(map_())
    assert "before VERSION" in (peer.stream.broken or "")
    peer.stream.close()
    assert ioas.count == 0
