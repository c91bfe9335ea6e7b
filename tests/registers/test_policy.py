"""Policies are data: masks for each width."""

import pytest

from vfuserver._core import COUNT
from vfuserver.errors import DeclarationError
from vfuserver.registers import COUNTER, POLICIES, RC, RESERVED, RO, RW, W1C, W1S, WO, Masks, Policy, Writes


@pytest.mark.parametrize(
    ("policy", "masks"),
    [
        (RO(), Masks(0xFFFF)),
        (RW(), Masks(0xFFFF, store=0xFFFF)),
        (RW(0x00FF), Masks(0xFFFF, store=0x00FF)),
        (WO(), Masks(0, store=0xFFFF)),
        (W1C(), Masks(0xFFFF, write_1_clear=0xFFFF)),
        (W1S(0x1), Masks(0xFFFF, write_1_set=0x1)),
        (RC(0xF0), Masks(0xFFFF, read_clear=0xF0)),
        (COUNTER(), Masks(0xFFFF, flags=COUNT)),
        (RESERVED(0xFF00), Masks(0x00FF)),
    ],
)
def test_masks_of_each_policy_say_what_reads_and_writes_do(policy: Policy, masks: Masks) -> None:
    assert policy.masks(2) == masks


@pytest.mark.parametrize("symbol", sorted(POLICIES))
@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_every_policy_has_masks_that_fit_every_width(symbol: str, width: int) -> None:
    masks = POLICIES[symbol]().masks(width)
    full = (1 << 8 * width) - 1
    assert all(0 <= mask <= full for mask in (masks.readable, masks.store, masks.write_1_clear, masks.write_1_set))


def test_joined_policies_keep_their_own_bits() -> None:
    joined = RW(0x0F) | W1C(0xF0) | WO(0x0F00)
    assert joined.masks(2) == Masks(0xF0FF, store=0x0F0F, write_1_clear=0xF0)
    assert repr(joined) == "RW(0xf) | W1C(0xf0) | WO(0xf00)"


def test_joined_policies_that_share_a_bit_are_refused() -> None:
    with pytest.raises(DeclarationError, match="disjoint bits, not share 0x1"):
        RW(0x3) | W1C(0x1)


def test_joining_without_bits_is_refused() -> None:
    with pytest.raises(DeclarationError, match="name their bits, not RW"):
        RW() | W1C(0x1)


def test_bits_beyond_the_width_are_refused() -> None:
    with pytest.raises(DeclarationError, match="fit in 1 bytes"):
        RW(0x100).masks(1)


def test_new_policy_class_registers_itself() -> None:
    class W0(Policy):
        symbol = "TEST_ONLY"
        writes = Writes.SET

    assert POLICIES.pop("TEST_ONLY") is W0
