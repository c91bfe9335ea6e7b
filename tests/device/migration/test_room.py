"""Room for a stream that waits: no two pieces overlap, what is given back is taken again, and little is kept."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.device.migration.models import Streamed
from tests.device.migration.moving import LOAD, S, feed, go, migration, read_all, save
from vfuserver.device.migration import room as module
from vfuserver.device.migration.room import GROWTH, KEPT, WORTH, Room
from vfuserver.errors import CommandError


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.close()


def address_space(room: Room) -> int:
    return sum(map(len, room._pages))


def test_pieces_do_not_overlap(room: Room) -> None:
    sizes = [WORTH - 1, WORTH, WORTH + 1, (1 << 20) + 16, 0, 1] * 3 + [GROWTH, GROWTH + 1]
    expected = [bytes([number]) * size for number, size in enumerate(sizes)]
    pieces = [room.take(size) for size in sizes]
    for piece, data in zip(pieces, expected, strict=True):
        piece[:] = data
    assert [bytes(piece) for piece in pieces] == expected


def test_what_is_given_back_is_taken_again(room: Room) -> None:
    piece = room.take(1 << 20)
    for _ in range(1000):
        room.give_back(piece)
        piece = room.take(1 << 20)
    assert address_space(room) == GROWTH


def test_closed_room_is_kept_for_the_next_one_within_limits(room: Room) -> None:
    module._kept.clear()
    first = room.take(1 << 20)
    first[:4] = b"mine"
    for _ in range(2 * KEPT // GROWTH):
        room.take(GROWTH)
    room.close()
    room.close()
    assert sum(map(len, module._kept)) == KEPT
    again = Room()
    again.take(1 << 20)
    assert sum(map(len, module._kept)) == KEPT - GROWTH
    again.close()
    module._kept.clear()


async def test_chunk_that_comes_a_hundred_times_takes_the_room_of_two() -> None:
    """S3.16: the last one for a place counts."""
    source, target = Streamed(), Streamed()
    await go(source, S.RUNNING, S.PRE_COPY)
    await go(target, *LOAD)
    for number in range(1, 101):
        source.pixels[:5] = b"%5d" % number
        feed(target, read_all(source))
    loading = migration(target)._loading
    assert loading is not None
    assert address_space(loading._memory.room) <= GROWTH
    await go(source, S.PRE_COPY, S.PRE_COPY_P2P, S.STOP_COPY)
    feed(target, read_all(source))
    await go(target, S.RESUMING, S.STOP)
    assert bytes(target.pixels) == bytes(source.pixels)
    assert bytes(target.pixels[:5]) == b"  100"
    source.close()
    target.close()


@pytest.mark.parametrize("partial", [None, b"no header of a section" * 2])
async def test_stream_that_another_process_does_not_take_up_gives_its_room_back(partial: bytes | None) -> None:
    """Because something else differs, or because it is damaged."""
    source, target, other = Streamed(), Streamed(), Streamed()
    source.pixels[:5] = b"moved"
    await go(target, *LOAD)
    feed(target, (await save(source))[:-8])
    data = migration(target).carry()
    parser = data["loading"][0]["parser"]
    parser["partial"] = partial or parser["partial"]
    module._kept.clear()
    with suppress(CommandError), ExitStack() as kept:
        migration(other).adopt(data, kept)
        assert partial is None
        assert not module._kept
    assert sum(map(len, module._kept)) == GROWTH
    module._kept.clear()
    for device in (source, target, other):
        device.close()
