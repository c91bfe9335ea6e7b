"""Devices for clients that write no COMMAND and size no BARs (S2.14, S2.15)."""

from collections.abc import Iterator

import pytest

from vfuserver import (
    Bar,
    DeclarationError,
    Intx,
    MsiX,
    PciDevice,
    PciExpress,
    PciIdentity,
    PowerManagement,
    ResetReason,
)
from vfuserver._core import Gate
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import PciIrq

OPEN = Gate.RUNNING | Gate.IO | Gate.MEMORY | Gate.MASTER


class Odd(PciDevice):
    """Regions of sizes that no BAR has, always decoding, always mastering."""

    identity = PciIdentity(0x1234, 0x0001)
    capabilities = (PowerManagement(no_soft_reset=True), PciExpress(flr=True), MsiX(vectors=2, table_bar=4))
    decodes_always = True
    masters_always = True
    intx = Intx()
    clock = Bar(0, size=8, sized=False)
    time = clock.rw(0, width=8)
    buffers = Bar(1, size=12288, sized=False, backing=True)
    memory = buffers.memory(0, 12288)
    tables = Bar(4, size=4096)


@pytest.fixture
def device() -> Iterator[Odd]:
    made = Odd()
    yield made
    made.close()


def test_regions_have_the_sizes_that_no_bar_has(device: Odd) -> None:
    """S2.14: a model without BAR sizing may declare regions of any size."""
    assert [device.regions[index].size for index in (0, 1)] == [8, 12288]


@pytest.mark.parametrize(("bar", "size"), [(0, 16), (1, 16384)])
def test_bar_register_claims_the_next_legal_size(device: Odd, bar: int, size: int) -> None:
    device.config.write(0x10 + 4 * bar, 4, 0xFFFF_FFFF)
    assert device.config.read(0x10 + 4 * bar, 4) == -size & 0xFFFF_FFFF


def test_accesses_and_vectors_need_no_command(device: Odd) -> None:
    """S2.15: gate bits stay open whatever COMMAND says, before and after a reset."""
    with LocalClient(device) as client:
        client.arm(PciIrq.MSIX, 2)
        for _ in range(2):
            client.write(0, 0, 0x1122_3344_5566_7788, 8)
            assert client.read(0, 0, 8) == 0x1122_3344_5566_7788
            device.interrupt(1)
            assert client.taken(PciIrq.MSIX, 1) == 1
            client.enable(7)
            client.enable(0)
            assert device.gate.word == OPEN
            device.reset(ResetReason.MESSAGE)
            assert device.gate.word == OPEN
        assert device.config.read(4, 2) == 0


def test_d3hot_still_closes_the_gate(device: Odd) -> None:
    """S0.6: the power state is not COMMAND."""
    power = device.config.find(PowerManagement)
    assert power is not None
    device.config.write(power.start + 4, 1, 3)
    assert device.gate.word == Gate.RUNNING
    device.config.write(power.start + 4, 1, 0)
    assert device.gate.word == OPEN


def test_one_of_them_opens_its_own_bits_only() -> None:
    class Masters(PciDevice):
        identity = PciIdentity(0x1234, 0x0002)
        masters_always = True

    device = Masters()
    assert device.gate.word == Gate.RUNNING | Gate.MASTER
    device.close()


def test_always_must_be_a_bool() -> None:
    with pytest.raises(DeclarationError, match=r"Wrong\.decodes_always must be True or False, not 1"):

        class Wrong(PciDevice):
            identity = PciIdentity(0x1234, 0x0003)
            decodes_always = 1  # type: ignore[assignment]


@pytest.mark.parametrize("size", [8, 12288])
def test_size_that_no_bar_has_refused_unless_declared(size: int) -> None:
    with pytest.raises(DeclarationError, match="must be a power of two from 0x10"):
        Bar(0, size=size)


def test_size_zero_refused_even_so() -> None:
    with pytest.raises(DeclarationError, match="size of BAR0"):
        Bar(0, size=0, sized=False)
