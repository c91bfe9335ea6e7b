"""As many areas as there may be (65 535, S1.14), put in and taken out in orders that a tree may find hard (S4.3)."""

import ctypes
import errno
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import pytest

from vfuserver import _core
from vfuserver.errors import CommandError, DmaError

PAGE: Final = 4096
BOTH: Final = _core.PROT_READ | _core.PROT_WRITE
MOST: Final = 65535
MEMORY: Final = 16 << 20
"""Bytes that 65 535 areas may take, whatever happened before."""
LAST: Final = 2**64 // PAGE - 1

Order = Callable[[int], Iterable[int]]


def middle_first(count: int) -> Iterator[int]:
    """From the middle outwards, by turns: every leaf that is split is split again."""
    for step in range((count + 1) // 2):
        yield count // 2 + step
        if count // 2 - 1 - step >= 0:
            yield count // 2 - 1 - step


def combed(count: int) -> Iterator[int]:
    """Every 97th, then the next ones to those."""
    for first in range(97):
        yield from range(first, count, 97)


def shuffled(count: int) -> Iterable[int]:
    return random.Random(4).sample(range(count), count)


ORDERS: Final[dict[str, Order]] = {
    "ascending": range,
    "descending": lambda count: range(count - 1, -1, -1),
    "middle first": middle_first,
    "combed": combed,
    "shuffled": shuffled,
}


class Usage(ctypes.Structure):
    """struct mallinfo2."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated() -> int:
    """Bytes that malloc has given out; small Python objects do not come from there."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Usage
    usage = mallinfo2()
    return int(usage.uordblks + usage.hblkhd)


def page_of(number: int) -> int:
    """Spread over the whole space, from its first page to its last: no two beside each other."""
    return number * (LAST // (MOST - 1)) if number < MOST - 1 else LAST


def check(ioas: _core.Ioas, present: set[int]) -> None:
    """What the space lists, and what a lookup finds, is what was put in."""
    assert [area[0] for area in ioas.areas()] == [page_of(number) * PAGE for number in sorted(present)]
    for number in random.Random(len(present)).sample(range(MOST), 300):
        iova = page_of(number) * PAGE
        if number in present:
            assert ioas.plan(iova + PAGE - 1, 1, BOTH) == [(iova + PAGE - 1, 1, _core.ACCESS_MESSAGES, 0, False)]
        else:
            with pytest.raises(DmaError):
                ioas.plan(iova, 1, BOTH)


def test_areas_are_listed_in_pieces() -> None:
    """S4.26: whoever looks at many areas takes a few at a time, from an IOVA inside one on."""
    ioas = _core.Ioas()
    assert ioas.areas(0, 7) == []
    for number in range(1000):
        ioas.map((2 * number + 1) * PAGE, PAGE, BOTH)
    everything, iova = ioas.areas(), 0
    pieces: list[tuple[int, ...]] = []
    while piece := ioas.areas(iova, 7):
        assert len(piece) == min(7, len(everything) - len(pieces))
        pieces += piece
        iova = piece[-1][0] + PAGE
    assert pieces == everything
    assert ioas.areas(3 * PAGE + 17, 1) == [everything[1]]
    assert (ioas.areas(0, 0), ioas.areas(0, -1)) == ([], [])


@pytest.mark.parametrize("out", ORDERS)
@pytest.mark.parametrize("into", ORDERS)
def test_every_order_in_and_out(into: str, out: str) -> None:
    before, ioas = allocated(), _core.Ioas()
    for number in ORDERS[into](MOST):
        ioas.map(page_of(number) * PAGE, PAGE, BOTH)
    assert ioas.count == MOST
    assert allocated() - before <= MEMORY
    check(ioas, set(range(MOST)))
    gone = list(ORDERS[out](MOST))
    for number in gone[: MOST // 2]:
        assert ioas.unmap(page_of(number) * PAGE, PAGE) == 1
    check(ioas, set(gone[MOST // 2 :]))
    for number in gone[MOST // 2 : -1000]:
        assert ioas.unmap(page_of(number) * PAGE, PAGE) == 1
    check(ioas, set(gone[-1000:]))
    assert allocated() - before <= MEMORY // 16, "leaves of few areas are merged"
    assert ioas.clear() == 1000


def test_one_more_is_enospc() -> None:
    """S1.14."""
    ioas = _core.Ioas()
    for number in range(MOST):
        ioas.map(page_of(number) * PAGE, PAGE, BOTH)
    with pytest.raises(CommandError) as caught:
        ioas.map(PAGE, PAGE, BOTH)
    assert caught.value.errno == errno.ENOSPC
    assert ioas.unmap(0, 2**64 - PAGE) == MOST - 1
    assert [area[0] for area in ioas.areas()] == [LAST * PAGE]


def test_all_of_them_are_carried_at_once() -> None:
    """Leaves are full then, as they come in order; one more is still ENOSPC."""
    ioas, other = _core.Ioas(), _core.Ioas()
    for number in ORDERS["shuffled"](MOST):
        ioas.map(page_of(number) * PAGE, PAGE, BOTH)
    areas, files = ioas.carry()
    before = allocated()
    other.adopt(areas, files)
    assert allocated() - before <= MEMORY // 4
    check(other, set(range(MOST)))
    assert other.areas() == ioas.areas()
    with pytest.raises(CommandError) as caught:
        other.map(PAGE, PAGE, BOTH)
    assert caught.value.errno == errno.ENOSPC
    assert other.clear() == MOST


@pytest.mark.parametrize("keep", [2, 3, 63, 64, 65, 127, 128, 129])
def test_leaves_that_are_nearly_emptied_again_and_again_take_no_memory(keep: int) -> None:
    """Fill, take out all but every keep-th, fill between what stayed: the worst for a tree that only splits."""
    before, ioas = allocated(), _core.Ioas()
    stay, page = list[int](), 0
    for _ in range(8):
        for _ in range(8000):
            ioas.map(page * PAGE, PAGE, BOTH)
            page += 2
        first = page - 16000
        for at in range(first, page, 2):
            if at // 2 % keep:
                ioas.unmap(at * PAGE, PAGE)
            else:
                stay.append(at)
        for at in range(first + 1, page, 64):
            ioas.map(at * PAGE, PAGE, BOTH)
            stay.append(at)
    assert [area[0] // PAGE for area in ioas.areas()] == sorted(stay)
    areas_per_leaf, leaf_bytes = 32, 7500  # two neighbours hold more than 64 together
    assert allocated() - before <= (len(stay) / areas_per_leaf + 8) * leaf_bytes + (64 << 10)


def test_sizes_that_differ_are_found_from_every_byte() -> None:
    """Areas that touch, of 1 to 9 pages; removed by ranges that hold several."""
    dice, ioas, starts, page = random.Random(9), _core.Ioas(), list[tuple[int, int]](), 0
    while len(starts) < 20000:
        pages = dice.randrange(1, 10)
        starts.append((page, pages))
        page += pages + (dice.random() < 0.2)
    for at, pages in dice.sample(starts, len(starts)):
        ioas.map(at * PAGE, pages * PAGE, BOTH)
    while starts:
        first = dice.randrange(len(starts))
        group = starts[first : first + dice.randrange(1, 700)]
        at, end = group[0][0], sum(group[-1])
        assert ioas.unmap(at * PAGE, (end - at) * PAGE) == len(group)
        del starts[first : first + len(group)]
        assert [area[:2] for area in ioas.areas()] == [(at * PAGE, pages * PAGE) for at, pages in starts]
