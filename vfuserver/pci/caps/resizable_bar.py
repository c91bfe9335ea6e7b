"""The Resizable BAR extended capability (PCIe 5.0, 7.8.6): which sizes software may give to memory BARs.

A region has one size here, so each BAR is offered in the size that it has and in no other: software that resizes finds
nothing to choose, and what the control register says is always true. QEMU emulates this capability for its guests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from vfuserver.errors import DeclarationError
from vfuserver.pci.bar import LAST_BAR, BarLayout
from vfuserver.pci.capability import ExtendedCapability
from vfuserver.pci.checks import require_power_of_two, require_range
from vfuserver.pci.fields import DWORD, QWORD, Field

REBAR_ID: Final = 0x0015
REBAR_CAPABILITY: Final = 0x04
REBAR_CONTROL: Final = 0x08
REBAR_STRIDE: Final = QWORD
REBAR_COUNT_SHIFT: Final = 5
REBAR_SIZE_SHIFT: Final = 8
REBAR_SIZES_SHIFT: Final = 4
SMALLEST_SIZE: Final = 1 << 20
LARGEST_SIZE: Final = 1 << 47
MOST_BARS: Final = LAST_BAR + 1


class RebarCapability(IntEnum):
    """+4 (7.8.6.2): bit 4 is 1 MiB, bit 31 is 128 TiB."""

    SIZES = 0xFFFF_FFF0


class RebarControl(IntEnum):
    """+8 (7.8.6.3)."""

    INDEX = 0x0000_0007
    COUNT = 0x0000_00E0
    SIZE = 0x0000_3F00


@dataclass(frozen=True, slots=True)
class BarSize:
    """BAR `index`, `size` in bytes: a power of two from 1 MiB to 128 TiB."""

    index: int
    size: int

    def __post_init__(self) -> None:
        require_range("BarSize.index", self.index, 0, LAST_BAR)
        require_power_of_two(f"size of BAR{self.index} in bytes", self.size, SMALLEST_SIZE, LARGEST_SIZE)

    @property
    def code(self) -> int:
        """The encoded size: 0 is 1 MiB, 1 is 2 MiB, and so on."""
        return (self.size // SMALLEST_SIZE).bit_length() - 1


@dataclass(frozen=True)
class ResizableBar(ExtendedCapability, id=REBAR_ID):
    """`bars`: one to six memory BARs with the sizes that they have. DeclarationError for a size that is another."""

    bars: tuple[BarSize, ...] = (BarSize(0, SMALLEST_SIZE),)

    def __post_init__(self) -> None:
        require_range("number of ResizableBar.bars", len(self.bars), 1, MOST_BARS)

    def check(self, bars: Sequence[BarLayout]) -> None:
        """Each of them must be a memory BAR of that size."""
        sizes = {bar.index: bar.size for bar in bars if not bar.is_io}
        for one in self.bars:
            if sizes.get(one.index) != one.size:
                present = sizes.get(one.index, 0)
                raise DeclarationError(
                    f"ResizableBar: BAR{one.index} must be a memory BAR of {one.size:#x} bytes, not of {present:#x}"
                )

    def body(self) -> Sequence[Field]:
        """A capability and a control register for each BAR."""
        return tuple(row for number, bar in enumerate(self.bars) for row in self._rows(number, bar))

    def _rows(self, number: int, bar: BarSize) -> Sequence[Field]:
        shift = number * REBAR_STRIDE
        sizes = 1 << bar.code + REBAR_SIZES_SHIFT
        count = len(self.bars) << REBAR_COUNT_SHIFT if number == 0 else 0
        control = bar.index | count | bar.code << REBAR_SIZE_SHIFT
        return (
            Field(f"capability_{number}", REBAR_CAPABILITY + shift, DWORD, reset=sizes, bits=RebarCapability),
            Field(f"control_{number}", REBAR_CONTROL + shift, DWORD, reset=control, bits=RebarControl),
        )

    @classmethod
    def variants(cls) -> Sequence["ResizableBar"]:
        """One BAR, and all six."""
        return (cls(), cls(tuple(BarSize(index, SMALLEST_SIZE) for index in range(MOST_BARS))))
