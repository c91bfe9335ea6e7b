import logging
import random

import pytest

from vfuserver.pci import walk, walk_extended
from vfuserver.pci.walk import MAX_CAPABILITIES, MAX_EXTENDED_CAPABILITIES


def image_of(first: int, links: dict[int, tuple[int, int]], size: int = 256) -> bytes:
    image = bytearray(size)
    image[6], image[0x34] = 0x10, first
    for offset, (number, following) in links.items():
        image[offset : offset + 2] = bytes((number, following))
    return bytes(image)


def extended_image_of(links: dict[int, tuple[int, int]]) -> bytes:
    image = bytearray(4096)
    for offset, (number, following) in links.items():
        image[offset : offset + 4] = (number | 1 << 16 | following << 20).to_bytes(4, "little")
    return bytes(image)


BROKEN = [
    ({0x40: (1, 0x40)}, [0x40], "a loop"),
    ({0x40: (1, 0x50), 0x50: (5, 0x40)}, [0x40, 0x50], "a loop"),
    ({0x40: (1, 0x10)}, [0x40], "below 0x40"),
    ({0x40: (1, 0x52)}, [0x40], "not dword aligned"),
]


@pytest.mark.parametrize(("links", "sane", "reason"), BROKEN, ids=lambda case: str(case))
def test_walk_broken_list_gives_sane_prefix_and_one_log_line(
    links: dict[int, tuple[int, int]], sane: list[int], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """S2.8: looped chains terminate, log once, expose the sane prefix."""
    with caplog.at_level(logging.WARNING):
        assert [link.offset for link in walk(image_of(0x40, links))] == sane
    assert [reason in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("links", "sane", "reason"),
    [
        ({0x100: (3, 0x100)}, [0x100], "a loop"),
        ({0x100: (3, 0x110), 0x110: (1, 0x100)}, [0x100, 0x110], "a loop"),
        ({0x100: (3, 0x80)}, [0x100], "below 0x100"),
        ({0x100: (3, 0x10A)}, [0x100], "not dword aligned"),
    ],
)
def test_walk_extended_broken_list_gives_sane_prefix_and_one_log_line(
    links: dict[int, tuple[int, int]], sane: list[int], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """S2.8, extended."""
    with caplog.at_level(logging.WARNING):
        assert [link.offset for link in walk_extended(extended_image_of(links))] == sane
    assert [reason in record.getMessage() for record in caplog.records] == [True]


def test_walk_beyond_a_short_image_stops() -> None:
    assert [link.offset for link in walk(image_of(0x40, {0x40: (1, 0x80)}, size=0x48))] == [0x40]


def test_walk_without_list_bit_is_empty() -> None:
    """S2.8: STATUS bit 4 decides."""
    image = bytearray(image_of(0x40, {0x40: (1, 0)}))
    image[6] = 0
    assert walk(bytes(image)) == []


def test_walk_low_bits_of_first_pointer_masked() -> None:
    """S2.8: the pointer at 0x34 has two reserved bits."""
    assert [link.offset for link in walk(image_of(0x43, {0x40: (1, 0)}))] == [0x40]


def test_walk_longest_list_is_walked_whole() -> None:
    """S2.8: the bounds are 48 and 960."""
    links = {offset: (9, (offset + 4) & 0xFF) for offset in range(0x40, 0x100, 4)}
    assert len(walk(image_of(0x40, links))) == MAX_CAPABILITIES == 48
    extended = {offset: (0xB, (offset + 4) & 0xFFF) for offset in range(0x100, 0x1000, 4)}
    assert len(walk_extended(extended_image_of(extended))) == MAX_EXTENDED_CAPABILITIES == 960


@pytest.mark.parametrize("image", [bytes(4096), b"\xff" * 4096, bytes(256), b"", bytes(64)])
def test_walk_extended_nothing_there_is_empty(image: bytes) -> None:
    assert walk_extended(image) == []


def test_walk_random_images_terminate_within_bounds() -> None:
    source = random.Random(2)
    for _ in range(300):
        image = source.randbytes(4096)
        assert len(walk(image)) <= MAX_CAPABILITIES
        assert len(walk_extended(image)) <= MAX_EXTENDED_CAPABILITIES
