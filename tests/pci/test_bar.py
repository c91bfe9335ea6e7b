import struct
from collections.abc import Callable

import pytest

from vfuserver.errors import DeclarationError
from vfuserver.pci import BarKind, BarLayout, ConfigSpace, RomLayout

Make = Callable[..., ConfigSpace]


def write_in_pieces(config: ConfigSpace, offset: int, data: bytes, width: int) -> None:
    for start in range(0, len(data), width):
        config.access(offset + start, width, data[start : start + width])


SIZING = [
    (BarLayout(0, 16), 0xFFFF_FFF0),
    (BarLayout(0, 1 << 31), 0x8000_0000),
    (BarLayout(3, 0x1000, prefetchable=True), 0xFFFF_F008),
    (BarLayout(0, 4, BarKind.IO), 0xFFFF_FFFD),
    (BarLayout(5, 256, BarKind.IO), 0xFFFF_FF01),
    (BarLayout(0, 16, BarKind.MEMORY64), 0xFFFF_FFFF_FFFF_FFF4),
    (BarLayout(4, 1 << 33, BarKind.MEMORY64, prefetchable=True), 0xFFFF_FFFE_0000_000C),
    (BarLayout(2, 1 << 63, BarKind.MEMORY64), 0x8000_0000_0000_0004),
]


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize(("bar", "expected"), SIZING, ids=lambda case: str(case))
def test_bar_all_ones_reads_size_and_type(make: Make, bar: BarLayout, expected: int, width: int) -> None:
    """S2.13: sizing of every kind, by writes of every width."""
    config = make(bars=[bar])
    offset, length = 0x10 + 4 * bar.index, 4 * len(bar.slots)
    write_in_pieces(config, offset, b"\xff" * length, width)
    assert config.read(offset, length) == expected


def test_bar_read_twice_gives_the_same(make: Make) -> None:
    """S2.13: reads have no side effects."""
    config = make()
    config.write(0x10, 4, 0xFFFF_FFFF)
    assert config.access(0, 64, None) == config.access(0, 64, None)


def test_bar_address_after_sizing_is_kept(make: Make) -> None:
    config = make(bars=[BarLayout(0, 0x1000)])
    config.write(0x10, 4, 0xFFFF_FFFF)
    config.write(0x10, 4, 0xFEBF_1234)
    assert config.read(0x10, 4) == 0xFEBF_1000


def test_bar_absent_reads_zero_after_any_write(make: Make) -> None:
    """S2.14: an absent BAR reads 0."""
    config = make(bars=[])
    config.access(0x10, 24, b"\xff" * 24)
    assert config.access(0x10, 24, None) == bytes(24)


@pytest.mark.parametrize("enable", [0, 1])
def test_rom_sizing_keeps_enable_bit(make: Make, enable: int) -> None:
    """S2.14: ROM bit 0 is writable, bits 10:1 are zero."""
    config = make(rom=RomLayout(0x8000))
    config.write(0x30, 4, 0xFFFF_FFFE | enable)
    assert config.read(0x30, 4) == 0xFFFF_8000 | enable


def test_rom_absent_reads_zero(make: Make) -> None:
    config = make()
    config.write(0x30, 4, 0xFFFF_FFFF)
    assert config.read(0x30, 4) == 0


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (BarKind.MEMORY32, 8),
        (BarKind.MEMORY32, 24),
        (BarKind.MEMORY32, 1 << 32),
        (BarKind.IO, 2),
        (BarKind.IO, 512),
        (BarKind.MEMORY64, 0),
    ],
)
def test_bar_size_the_kind_forbids_refused(kind: BarKind, size: int) -> None:
    """S2.14: power of two, I/O at least 4, memory at least 16 bytes."""
    with pytest.raises(DeclarationError, match="must be a power of two"):
        BarLayout(0, size, kind)


def test_bar_64_bit_in_last_slot_refused() -> None:
    with pytest.raises(DeclarationError, match="index of a memory64 BAR must be 0x0 to 0x4, not 0x5"):
        BarLayout(5, 16, BarKind.MEMORY64)


def test_bar_io_prefetchable_refused() -> None:
    with pytest.raises(DeclarationError, match="must be a memory BAR to be prefetchable"):
        BarLayout(0, 16, BarKind.IO, prefetchable=True)


def test_bar_slot_of_a_64_bit_upper_half_refused_naming_both(make: Make) -> None:
    with pytest.raises(DeclarationError, match=r"slot 1 .* not BAR0 \(memory64\) and BAR1 \(memory32\)"):
        make(bars=[BarLayout(0, 16, BarKind.MEMORY64), BarLayout(1, 16)])


def test_rom_size_too_small_refused() -> None:
    with pytest.raises(DeclarationError, match="expansion ROM"):
        RomLayout(1024)


def test_bar_type_bits_in_reset_image(make: Make) -> None:
    assert struct.unpack_from("<6I", make().reset_image, 0x10) == (0, 0, 0xC, 0, 0, 1)
