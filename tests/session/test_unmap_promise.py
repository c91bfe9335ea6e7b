"""The reply to DMA_UNMAP: nothing touches the range any more, whoever held a view of it (S1.9, S4.12)."""

import errno
import os
import re
from collections.abc import Iterator

import pytest

from tests.session.device import LittleDevice
from tests.session.dma import MAP, PAGE, UNMAP, map_
from tests.session.harness import SPECIFIED, Wire
from vfuserver._core import PROT_READ, PROT_WRITE, Pin
from vfuserver.errors import DmaError, UsageError
from vfuserver.session import SessionOptions

BASE, SIZE = 0x100000, 16 * PAGE
ONE, ALL = UNMAP.request.pack(24, 0, BASE, SIZE), UNMAP.request.pack(24, 2, 0, 0)


@pytest.fixture
def memory(wire: Wire) -> Iterator[int]:
    """A file mapped at BASE, and once more above."""
    fd = os.memfd_create("guest")
    os.ftruncate(fd, SIZE)
    map_(wire, BASE, SIZE, fds=(fd,))
    map_(wire, BASE + SIZE, SIZE, fds=(fd,))
    yield fd
    os.close(fd)


def pin(wire: Wire, iova: int = BASE) -> Pin:
    return Pin(wire.session.connection.ioas, iova, PAGE, PROT_READ | PROT_WRITE)


@pytest.mark.parametrize("request_", [ONE, ALL], ids=["range", "all"])
def test_the_reply_comes_when_the_view_is_given_back(
    wire: Wire, memory: int, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """S1.9: and nothing is taken by force."""
    view = pin(wire)
    assert wire.send(UNMAP.number, request_) == []
    wire.clock.advance(0.05)
    assert (wire.take(), view.valid) == ([], True)
    view.revoke()
    wire.clock.advance(0.01)
    (reply,) = wire.take()
    assert (reply.errno, reply.payload) == (0, request_)
    assert "force" not in caplog.text


@pytest.mark.parametrize("request_", [ONE, ALL], ids=["range", "all"])
def test_a_view_that_is_kept_is_taken_by_force_after_a_bounded_time(
    wire: Wire, memory: int, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """S4.12: the log names device and range; the view shows zeros, and what is written there reaches nobody."""
    view = pin(wire)
    bytes_ = memoryview(view)
    bytes_[:5] = b"still"
    assert wire.send(UNMAP.number, request_) == []
    for _ in range(100):
        wire.clock.advance(0.002)
    (reply,) = wire.take()
    assert (reply.errno, reply.payload) == (0, request_)
    assert (view.valid, bytes(bytes_[:5])) == (False, bytes(5))
    bytes_[:5] = b"never"
    assert os.pread(memory, 5, 0) == b"still"
    assert "little#" in caplog.text
    assert "DMA_UNMAP of [0x" in caplog.text
    assert "1 views were not given back within 0.1 s" in caplog.text
    bytes_.release()


def test_nothing_new_begins_while_the_reply_waits(wire: Wire, memory: int) -> None:
    """S1.9: accesses and views are refused from the command on, other commands wait."""
    view = pin(wire)
    wire.send(UNMAP.number, ONE)
    with pytest.raises(DmaError) as caught:
        pin(wire)
    assert caught.value.errno == errno.EFAULT
    with pytest.raises(DmaError):
        wire.session.connection.memory.write_now(BASE, b"x")
    assert wire.send(13) == []
    view.revoke()
    wire.clock.advance(0.01)
    assert [reply.header.command for reply in wire.take()] == [UNMAP.number, 13]


def test_views_of_other_ranges_do_not_matter(wire: Wire, memory: int) -> None:
    view = pin(wire, BASE + SIZE)
    assert not wire.ask(UNMAP, ONE).errno
    assert view.valid
    view.revoke()


def test_a_refused_unmap_leaves_views_alone(wire: Wire, memory: int) -> None:
    """S1.10: a range that cuts an area."""
    view = pin(wire)
    assert wire.ask(UNMAP, UNMAP.request.pack(24, 0, BASE, SIZE // 2)).errno == errno.ENOENT
    assert view.valid
    view.revoke()


def test_the_end_of_the_connection_takes_views_at_once(wire: Wire, memory: int) -> None:
    """S1.9; the command that waited is not answered."""
    views = [pin(wire), pin(wire, BASE + SIZE)]
    wire.send(UNMAP.number, ONE)
    wire.close()
    assert [view.valid for view in views] == [False, False]
    wire.clock.advance(1)
    assert wire.take() == []


def test_how_long_a_view_may_be_kept_is_an_option(device: LittleDevice) -> None:
    wire = Wire(device, SessionOptions(quirks=SPECIFIED.quirks, revoke_after=0))
    wire.negotiate()
    fd = os.memfd_create("guest")
    os.ftruncate(fd, SIZE)
    map_(wire, BASE, SIZE, fds=(fd,))
    os.close(fd)
    view = pin(wire)
    assert wire.send(UNMAP.number, ONE)[0].errno == 0
    assert not view.valid
    wire.close()


def test_a_negative_time_is_refused() -> None:
    with pytest.raises(UsageError, match="revoke_after must be a time in seconds, not -1"):
        SessionOptions(revoke_after=-1)


def test_half_of_the_deadline_is_the_longest_wait(device: LittleDevice) -> None:
    """The client is answered, and the answer is true."""
    wire = Wire(device, SessionOptions(quirks=SPECIFIED.quirks, revoke_after=10, deadline=1))
    wire.negotiate()
    fd = os.memfd_create("guest")
    os.ftruncate(fd, SIZE)
    map_(wire, BASE, SIZE, fds=(fd,))
    os.close(fd)
    view = pin(wire)
    assert wire.send(UNMAP.number, ONE) == []
    for _ in range(300):
        wire.clock.advance(0.002)
    assert [reply.errno for reply in wire.take()] == [0]
    assert not view.valid
    wire.close()


LIMITS = {
    "maps": (SessionOptions(max_dma_maps=2), "2 areas are mapped.*--max-dma-maps 2"),
    "bytes": (SessionOptions(max_dma_bytes=2 * SIZE + PAGE), "0x20000 bytes are mapped, 0x10000 more.*--max-dma-bytes"),
}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_is_enospc_and_the_log_says_which_one(
    device: LittleDevice, limit: str, caplog: pytest.LogCaptureFixture
) -> None:
    """S1.14, S4.12."""
    options, text = LIMITS[limit]
    wire = Wire(device, options)
    wire.negotiate()
    maps = [wire.ask(MAP, MAP.request.pack(32, 3, 0, i * SIZE, SIZE)) for i in range(3)]
    assert [reply.errno for reply in maps] == [0, 0, errno.ENOSPC]
    assert re.search(text, caplog.text)
    wire.close()


def test_no_more_views_than_the_limit(device: LittleDevice) -> None:
    """S4.12."""
    wire = Wire(device, SessionOptions(quirks=SPECIFIED.quirks, max_dma_views=1))
    wire.negotiate()
    fd = os.memfd_create("guest")
    os.ftruncate(fd, SIZE)
    map_(wire, BASE, SIZE, fds=(fd,))
    os.close(fd)
    view = pin(wire)
    with pytest.raises(DmaError) as caught:
        pin(wire)
    assert caught.value.errno == errno.ENOSPC
    view.revoke()
    wire.close()
