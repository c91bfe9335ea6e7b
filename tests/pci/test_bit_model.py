"""Any masks and any accesses against a model that knows one bit at a time (S2.2): at least 100 000 accesses a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from vfuserver._core import Gate
from vfuserver.pci import BarKind, BarLayout, ConfigSpace, Field, GatePort, PciIdentity, RomLayout
from vfuserver.pci.caps.vendor_specific import VendorSpecific
from vfuserver.pci.caps.vendor_specific_extended import VendorSpecificExtended

EXAMPLES, ACCESSES = 105, 1000
AT_LEAST = 100_000

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""Not shrink: a thousand accesses for each attempt, and the seed that decides them means nothing when it is smaller."""

SIZE = 4096
LENGTH = 64
"""Of each capability, in bytes: three ordinary ones are all that there is room for."""
READ_ONLY, STORED, CLEARED = range(3)
BARS = (BarLayout(0, 0x1000), BarLayout(2, 1 << 33, BarKind.MEMORY64), BarLayout(5, 0x20, BarKind.IO))
HEADER = (
    (0x04, 0x0547, STORED),
    (0x06, 0xF900, CLEARED),
    (0x0C, 0xFF00_FFFF, STORED),
    (0x10, 0xFFFF_F000, STORED),
    (0x18, 0xFFFF_FFFE_0000_0000, STORED),
    (0x24, 0xFFFF_FFE0, STORED),
    (0x30, 0xFFFF_F801, STORED),
    (0x3C, 0x0000_00FF, STORED),
)
"""What S2.13 to S2.18 say about a header with these BARs and a ROM of 2 KiB: offset, bits, what a write does."""


@dataclass(frozen=True)
class Masks(VendorSpecific, extends=True):
    """A capability of any rows."""

    given: tuple[Field, ...] = ()

    def body(self) -> Sequence[Field]:
        return self.given


@dataclass(frozen=True)
class ExtendedMasks(VendorSpecificExtended):
    """An extended capability of any rows."""

    given: tuple[Field, ...] = ()

    def body(self) -> Sequence[Field]:
        return self.given


@st.composite
def rows(draw: st.DrawFn, first: int) -> tuple[Field, ...]:
    """Registers of any widths and masks, side by side or apart."""
    made: list[Field] = []
    end = first
    for index, (gap, width) in enumerate(draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9)), min_size=1))):
        offset = end + gap
        end = offset + width
        if end > LENGTH:
            break
        bits = st.integers(0, (1 << 8 * width) - 1)
        stored, cleared = draw(bits), draw(bits)
        made.append(
            Field(
                f"row_{index}",
                offset,
                width,
                reset=draw(bits),
                writable=stored,
                clear=cleared & ~stored,
                sticky=draw(bits),
            )
        )
    return tuple(made)


class Bits:
    """Configuration space as a list of bits, each with what a write of 1 or 0 does to it."""

    def __init__(self, config: ConfigSpace) -> None:
        self.first = [value >> bit & 1 for value in config.image for bit in range(8)]
        self.rule = [READ_ONLY] * len(self.first)
        self.sticky = [False] * len(self.first)
        for offset, mask, rule in HEADER:
            self._allow(offset, mask, rule)
        for block in config.capabilities:
            assert isinstance(block, Masks | ExtendedMasks)
            for row in block.given:
                at = block.start + row.offset
                self._allow(at, row.writable, STORED)
                self._allow(at, row.clear, CLEARED)
                for bit in range(8 * row.width):
                    self.first[8 * at + bit] = row.reset >> bit & 1
                    self.sticky[8 * at + bit] = bool(row.sticky >> bit & 1)
        self.now = list(self.first)

    def _allow(self, offset: int, mask: int, rule: int) -> None:
        for bit in range(mask.bit_length()):
            if mask >> bit & 1:
                self.rule[8 * offset + bit] = rule

    def write(self, offset: int, data: bytes) -> None:
        for place in range(8 * offset, 8 * (offset + len(data))):
            asked = data[place // 8 - offset] >> place % 8 & 1
            rule = self.rule[place]
            if rule == STORED:
                self.now[place] = asked
            elif rule == CLEARED and asked:
                self.now[place] = 0

    def read(self, offset: int, count: int) -> bytes:
        bits = self.now[8 * offset : 8 * (offset + count)]
        return int("".join(map(str, reversed(bits))), 2).to_bytes(count, "little")

    def reset(self) -> None:
        self.now = [
            now if sticky else first for now, first, sticky in zip(self.now, self.first, self.sticky, strict=True)
        ]


def accesses(seed: int, config: ConfigSpace) -> Iterator[tuple[int, int, bytes | None]]:
    """Offset, count, and what is written (None: a read); mostly where something is."""
    random = Random(seed)
    owned = [offset for offset in range(SIZE) if config.owner(offset) is not None]
    for _ in range(ACCESSES):
        offset = random.choice(owned) if random.random() < 0.9 else random.randrange(SIZE)
        count = min(random.choice((1, 1, 2, 2, 4, 4, 4, 3, 8, random.randint(1, 16))), SIZE - offset)
        yield offset, count, None if random.random() < 0.4 else random.randbytes(count)


def check(config: ConfigSpace, seed: int) -> int:
    """Makes accesses and resets, compares each answer and the whole at the end; how many accesses there were."""
    model = Bits(config)
    made = 0
    for made, (offset, count, data) in enumerate(accesses(seed, config), 1):
        if data is None:
            assert config.access(offset, count, None) == model.read(offset, count)
        else:
            config.access(offset, count, data)
            model.write(offset, data)
        if made % 200 == 0:
            config.reset()
            model.reset()
    assert config.image == model.read(0, SIZE)
    return made


def test_access_any_masks_and_sequence_agrees_with_bit_model() -> None:
    """S2.2, S2.4, S2.13 to S2.18, S2.30: every bit does what its mask says, whatever is accessed in whichever way."""
    made = 0

    @settings(max_examples=EXAMPLES, deadline=None, phases=PHASES)
    @given(st.lists(rows(2), min_size=1, max_size=3), st.lists(rows(4), max_size=8), st.integers(0, (1 << 64) - 1))
    def run(ordinary: list[tuple[Field, ...]], extended: list[tuple[Field, ...]], seed: int) -> None:
        nonlocal made
        capabilities = (
            *(Masks(LENGTH, given=one) for one in ordinary),
            *(ExtendedMasks(length=LENGTH, given=one) for one in extended),
        )
        identity = PciIdentity(0x1234, 0x7E57)
        config = ConfigSpace(identity, BARS, capabilities, port=GatePort(Gate()), rom=RomLayout(0x800))
        made += check(config, seed)

    run()
    assert made >= AT_LEAST
