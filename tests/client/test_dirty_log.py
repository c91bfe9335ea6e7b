"""Bitmaps as ranges, and what the client notes itself (S3.19, S3.20)."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from vfuserver.client import dirty_ranges
from vfuserver.client.dirty_log import PAGE, DirtyLog

BITS = 1 << 16


def bitmap_of(bits: set[int]) -> bytearray:
    bitmap = bytearray(BITS // 8)
    for bit in bits:
        bitmap[bit // 8] |= 1 << bit % 8
    return bitmap


@given(st.sets(st.integers(0, BITS - 1)), st.integers(0, 1 << 40).map(lambda page: page * PAGE))
def test_ranges_cover_exactly_the_set_bits_and_never_touch(bits: set[int], iova: int) -> None:
    ranges = list(dirty_ranges(bitmap_of(bits), iova))
    assert {(at - iova) // PAGE for start, size in ranges for at in range(start, start + size, PAGE)} == bits
    assert all(a + size < b for (a, size), (b, _) in pairwise(ranges))


def test_what_was_marked_is_taken_once_and_only_where_it_is_asked_for() -> None:
    log = DirtyLog()
    log.mark(PAGE - 1, 2)
    log.mark(64 * PAGE, 1)
    log.mark(7 * PAGE, 0)
    small, large = bytearray(8), bytearray(8)
    log.take_into(small, PAGE, 8 * PAGE, PAGE)
    log.take_into(large, 0, 1024 * PAGE, 16 * PAGE)
    assert list(dirty_ranges(small, PAGE)) == [(PAGE, PAGE)]
    assert list(dirty_ranges(large, 0, 16 * PAGE)) == [(0, 16 * PAGE), (64 * PAGE, 16 * PAGE)]
