import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfuserver._core import Gate
from vfuserver.errors import CommandError, LocalError
from vfuserver.pci import Command, ConfigSpace, Field, GatePort, PciIdentity, Write
from vfuserver.pci.caps.msi import Msi
from vfuserver.pci.caps.pci_express import PciExpress
from vfuserver.pci.caps.power_management import PowerManagement
from vfuserver.pci.caps.vendor_specific import VendorSpecific
from vfuserver.vfio import PciIrq

Make = Callable[..., ConfigSpace]

IDENTITY = PciIdentity(0x1234, 0x7E57)
LENGTH = 40
ANY = Field("any", 3, 1)


@dataclass(frozen=True)
class Masks(VendorSpecific):
    """A capability of any masks."""

    row: Field = ANY

    def body(self) -> Sequence[Field]:
        return (self.row,)


@st.composite
def masks(draw: st.DrawFn) -> Field:
    width = LENGTH - 3
    bits = st.integers(0, (1 << 8 * width) - 1)
    writable, clear = draw(bits), draw(bits)
    return Field("any", 3, width, reset=draw(bits), writable=writable, clear=clear & ~writable)


def model_write(image: bytearray, row: Field, at: int, data: bytes) -> None:
    """One bit at a time, as S2.2 says it."""
    for bit in range(8 * len(data)):
        place = 8 * at + bit - 8 * row.offset
        if not 0 <= place < 8 * row.width:
            continue
        index, one = at + bit // 8, 1 << bit % 8
        asked = data[bit // 8] & one
        if row.writable >> place & 1:
            image[index] = image[index] & ~one | asked
        elif row.clear >> place & 1 and asked:
            image[index] &= ~one


@given(masks(), st.lists(st.tuples(st.integers(0, LENGTH + 8), st.binary(min_size=1, max_size=12)), max_size=8))
def test_access_any_masks_agrees_with_bit_model(row: Field, writes: list[tuple[int, bytes]]) -> None:
    """S2.2: random masks and accesses against a bit-level reference model."""
    config = ConfigSpace(IDENTITY, capabilities=[Masks(length=LENGTH, row=row)], port=GatePort(Gate()))
    expected = bytearray(config.image[0x40:0x80])
    for at, data in writes:
        config.access(0x40 + at, len(data), data)
        model_write(expected, row, at, data)
    assert config.access(0x40, 0x40, None) == bytes(expected)


@given(st.integers(0, 255), st.integers(1, 256))
def test_pieces_any_access_largest_aligned_within_owner(offset: int, count: int) -> None:
    """S2.4: pieces cover the access, are aligned, cross no owner, and no two could have been one."""
    count = min(count, 256 - offset)
    config = ConfigSpace(IDENTITY, capabilities=[Msi(address64=False, maskable=False)], port=GatePort(Gate()))
    pieces = list(config.pieces(offset, count))
    assert [byte for at, width in pieces for byte in range(at, at + width)] == list(range(offset, offset + count))
    for at, width in pieces:
        assert at % width == 0
        assert len({config.owner(byte) for byte in range(at, at + width)}) == 1
    for (at, width), (_, following) in pairwise(pieces):
        merged = width == following and width < 4 and at % (2 * width) == 0
        assert not merged or config.owner(at) is not config.owner(at + width)


def test_pieces_four_bytes_at_bar_is_one_piece(make: Make) -> None:
    """S2.4: a 4-byte BAR write is one access."""
    assert list(make().pieces(0x10, 4)) == [(0x10, 4)]


def test_pieces_three_bytes_at_5_is_one_and_two(make: Make) -> None:
    """S2.4: 3 bytes at 0x05 are 1 + 2."""
    assert list(make().pieces(5, 3)) == [(5, 1), (6, 2)]


def test_pieces_capability_end_within_dword_cuts(make: Make) -> None:
    """S2.4: a piece does not cross a capability boundary."""
    config = make(Msi(address64=False, maskable=False))
    assert list(config.pieces(0x48, 4)) == [(0x48, 2), (0x4A, 2)]


def test_hook_sees_each_piece_once_after_the_store(make: Make) -> None:
    """S2.4: write 4 at +4 is one 4-byte call, offsets from the capability's start."""
    seen: list[Write] = []
    config = make(VendorSpecific(16, writable=b"\xff" * 13, handler=seen.append))
    config.access(0x44, 6, b"abcdef")
    assert [(write.offset, write.width, write.data) for write in seen] == [(4, 4, b"abcd"), (8, 2, b"ef")]
    assert seen[0].new[4:10] == b"abcd\0\0"
    assert seen[1].old[4:10] == b"abcd\0\0"
    assert seen[1].new[4:10] == b"abcdef"


def test_hook_error_leaves_gate_in_step() -> None:
    """A device that fails while it is told of INTX_DISABLE does not keep its gate from following COMMAND."""

    class Failing(GatePort):
        def interrupts_changed(self, index: PciIrq) -> None:
            raise ZeroDivisionError

    gate = Gate()
    config = ConfigSpace(IDENTITY, port=Failing(gate))
    with pytest.raises(ZeroDivisionError):
        config.write(4, 2, Command.INTX_DISABLE | Command.MEMORY)
    assert gate.word == Gate.RUNNING | Gate.MEMORY


def test_bulk_read_equals_dword_reads(make: Make) -> None:
    """S2.4: one read of 4096 bytes equals its dwords."""
    config = make(PciExpress(), PowerManagement(), Msi(4))
    bulk = config.access(0, 4096, None)
    assert bulk == b"".join(config.read(offset, 4).to_bytes(4, "little") for offset in range(0, 4096, 4))


@pytest.mark.parametrize(("capabilities", "size"), [((), 256), ((PciExpress(),), 4096)], ids=["pci", "pcie"])
def test_access_beyond_the_edge_refused_without_effect(
    make: Make, capabilities: Sequence[PciExpress], size: int
) -> None:
    """S2.5: EINVAL at the edges of 256 and 4096 bytes, nothing changed."""
    config = make(*capabilities)
    assert config.size == size
    assert config.access(size - 1, 1, None) == b"\0"
    before = config.image
    for offset, count in ((size, 1), (size - 1, 2), (size - 4, 8), (0, 0), (0, size + 1), (-1, 1)):
        for data in (None, b"\xff" * count):
            with pytest.raises(CommandError) as caught:
                config.access(offset, count, data)
            assert caught.value.errno == errno.EINVAL
    assert config.image == before


def test_access_data_of_another_length_refused(make: Make) -> None:
    with pytest.raises(CommandError, match="EINVAL: configuration write of 4 bytes carries 2"):
        make().access(0x10, 4, b"ab")


def test_gap_reads_zero_and_drops_writes(make: Make) -> None:
    """S2.28: unowned bytes of an emulated device."""
    config = make()
    config.access(0x40, 0xC0, b"\xff" * 0xC0)
    assert config.access(0x40, 0xC0, None) == bytes(0xC0)
    assert config.owner(0x40) is None


def test_owner_of_abutting_vendor_capabilities_is_the_right_one(make: Make) -> None:
    """S2.7: two abutting capabilities of one id; offsets count from the right start."""
    seen: list[tuple[str, int]] = []
    config = make(
        VendorSpecific(8, writable=b"\xff" * 5, handler=lambda write: seen.append(("first", write.offset))),
        VendorSpecific(8, writable=b"\xff" * 5, handler=lambda write: seen.append(("second", write.offset))),
    )
    config.access(0x44, 8, b"12345678")
    assert seen == [("first", 4), ("second", 0)]
    assert config.owner(0x47) is config.capabilities[0]
    assert config.owner(0x48) is config.capabilities[1]


def test_reset_after_patterns_gives_power_on_image(make: Make, gate: Gate) -> None:
    """S2.30: fill with patterns, reset, compare; the gate closes."""
    config = make(PciExpress(), PowerManagement(), Msi(4), VendorSpecific(16, writable=b"\xff" * 13))
    config.access(0, 0x40, b"\xff" * 0x40)
    config.access(0x40, 0xC0, b"\xa5" * 0xC0)
    assert config.image != config.reset_image
    config.reset()
    assert config.image == config.reset_image
    assert gate.word == Gate.RUNNING


def test_reset_keeps_sticky_bits(make: Make) -> None:
    """S2.30: sticky bits survive."""
    row = Field("any", 3, 1, reset=0x01, writable=0xFF, sticky=0xF0)
    config = make(Masks(length=LENGTH, row=row))
    config.write(0x43, 1, 0xAA)
    config.reset()
    assert config.read(0x43, 1) == 0xA1


def test_devices_that_share_declarations_keep_apart() -> None:
    """S2.1: declarations are shared, values are not."""
    declared = Msi(4)
    one, other = (ConfigSpace(IDENTITY, capabilities=[declared], port=GatePort(Gate())) for _ in range(2))
    one.write(0x50, 4, 0xF)
    live = other.find(Msi)
    assert live is not None
    assert not live.masked(0)
    assert live.layout is declared.layout


def test_find_absent_capability_is_none(make: Make) -> None:
    assert make(Msi()).find(PowerManagement) is None


def test_declaration_used_as_live_capability_says_so() -> None:
    with pytest.raises(LocalError, match="Msi is a declaration"):
        Msi().masked(0)
