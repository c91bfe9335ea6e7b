"""idio-pair: two functions whose lines are wired to each other."""

from collections.abc import Iterator
from typing import Any

import pytest

from vfuserver import ResetReason, load_model
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import PciIrq

BAR = 2
OUT_LOW, IN_LOW, IRQ, _, OUT_HIGH, IN_HIGH, STATUS = range(7)

Ends = tuple[LocalClient, LocalClient]


@pytest.fixture(params=[{}])
def card(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = load_model("idio-pair")(**request.param)
    yield made
    made.close()


@pytest.fixture
def ends(card: Any) -> Iterator[Ends]:
    with LocalClient(card.first) as first, LocalClient(card.second) as second:
        for client in (first, second):
            client.enable(0x0001)
            client.arm(PciIrq.INTX)
        yield first, second


def test_outputs_of_each_are_inputs_of_the_other(ends: Ends) -> None:
    first, second = ends
    first.write(BAR, OUT_LOW, 0xA5, 1)
    second.write(BAR, OUT_HIGH, 0x5A, 1)
    assert (second.read(BAR, IN_LOW, 1), second.read(BAR, IN_HIGH, 1)) == (0xA5, 0)
    assert (first.read(BAR, IN_LOW, 1), first.read(BAR, IN_HIGH, 1)) == (0, 0x5A)


@pytest.mark.parametrize("card", [{"wired": "no"}], indirect=True)
def test_without_wires_inputs_are_low(ends: Ends) -> None:
    first, second = ends
    first.write(BAR, OUT_LOW, 0xFF, 1)
    assert second.read(BAR, IN_LOW, 1) == 0


def test_a_change_interrupts_the_other_function_only(ends: Ends) -> None:
    first, second = ends
    first.read(BAR, IRQ, 1)
    second.read(BAR, IRQ, 1)
    first.write(BAR, OUT_LOW, 1, 1)
    assert (first.taken(PciIrq.INTX), second.taken(PciIrq.INTX)) == (0, 1)
    assert second.read(BAR, STATUS, 1) == 0x05


def test_a_reset_is_one_function_s_and_reaches_the_other_by_the_wires_only(card: Any, ends: Ends) -> None:
    """S2.30."""
    first, second = ends
    first.write(BAR, OUT_LOW, 0x0F, 1)
    second.write(BAR, OUT_LOW, 0xF0, 1)
    card.first.reset(ResetReason.MESSAGE)
    first.enable(0x0001)
    assert (first.read(BAR, OUT_LOW, 1), first.read(BAR, IN_LOW, 1)) == (0, 0xF0)
    assert (second.read(BAR, OUT_LOW, 1), second.read(BAR, IN_LOW, 1)) == (0xF0, 0)
