"""gpio-idio-16, driven as Linux's gpio-pci-idio-16 drives it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vfuserver import load
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import PciIrq

BAR = 2
OUT_LOW, IN_LOW, IRQ, FILTER, OUT_HIGH, IN_HIGH, STATUS, FILTERS = range(8)

Make = Callable[..., tuple[Any, LocalClient]]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[LocalClient] = []

    def new(**options: str) -> tuple[Any, LocalClient]:
        device = load("gpio-idio-16")(**options)
        client = LocalClient(device)
        made.append(client)
        device.attach(client)
        client.enable(0x0001)
        client.arm(PciIrq.INTX)
        return device, client

    yield new
    for client in made:
        client.close()
        client.backend.close()


def ports(client: LocalClient, *offsets: int) -> list[int]:
    return [client.read(BAR, offset, 1) for offset in offsets]


def test_identity_and_bar_are_the_card_s() -> None:
    found = load("gpio-idio-16").declaration
    assert (found.identity.vendor, found.identity.device) == (0x494F, 0x0DC8)
    assert [(bar.index, bar.size, bar.place.is_io) for bar in found.bars] == [(2, 256, True)]


def test_outputs_read_back(make: Make) -> None:
    _, client = make()
    client.write(BAR, OUT_LOW, 0xA5, 1)
    client.write(BAR, OUT_HIGH, 0x5A, 1)
    assert ports(client, OUT_LOW, OUT_HIGH, IN_LOW, IN_HIGH) == [0xA5, 0x5A, 0, 0]


def test_inputs_are_what_is_driven(make: Make) -> None:
    device, client = make()
    device.set_inputs(0x1234)
    assert ports(client, IN_LOW, IN_HIGH) == [0x34, 0x12]


def test_inputs_option_sets_the_power_on_level(make: Make) -> None:
    _, client = make(inputs="0x8001")
    assert ports(client, IN_LOW, IN_HIGH) == [0x01, 0x80]


def test_loopback_option_wires_inputs_to_outputs(make: Make) -> None:
    _, client = make(loopback="yes")
    client.write(BAR, OUT_LOW, 0x01, 1)
    client.write(BAR, OUT_HIGH, 0x80, 1)
    assert ports(client, IN_LOW, IN_HIGH) == [0x01, 0x80]


def test_input_change_interrupts_only_when_enabled(make: Make) -> None:
    device, client = make()
    device.set_inputs(1)
    assert (client.taken(PciIrq.INTX), client.read(BAR, STATUS, 1)) == (0, 0)
    client.write(BAR, IN_LOW, 0, 1)
    client.read(BAR, IRQ, 1)
    device.set_inputs(0x0101)
    assert (client.taken(PciIrq.INTX), client.read(BAR, STATUS, 1)) == (1, 0x06)
    client.write(BAR, IN_LOW, 0, 1)
    assert (device.intx.asserted, client.read(BAR, STATUS, 1)) == (False, 0)


def test_unchanged_inputs_do_not_interrupt(make: Make) -> None:
    device, client = make()
    client.read(BAR, IRQ, 1)
    device.set_inputs(0)
    assert client.taken(PciIrq.INTX) == 0


def test_driver_s_old_and_new_test_of_the_status_hold(make: Make) -> None:
    """Linux before 6.4 wants (status & 3) and (status & 4); later ones only bit 2."""
    device, client = make()
    client.read(BAR, IRQ, 1)
    device.set_inputs(0x0001)
    status = client.read(BAR, STATUS, 1)
    assert status & 0x3
    assert status & 0x4


def test_disabling_lowers_the_line_and_keeps_the_latch(make: Make) -> None:
    device, client = make()
    client.read(BAR, IRQ, 1)
    device.set_inputs(1)
    client.write(BAR, IRQ, 0, 1)
    assert (device.intx.asserted, client.read(BAR, STATUS, 1) & 4) == (False, 4)
    client.read(BAR, IRQ, 1)
    assert device.intx.asserted


def test_filters_are_controlled_globally_and_one_by_one(make: Make) -> None:
    """ACCES's manual, chapter 4."""
    _, client = make()
    client.write(BAR, FILTERS, 0x0F, 1)
    assert client.read(BAR, FILTERS, 1) == 0x0F
    client.read(BAR, FILTER, 1)
    client.write(BAR, FILTERS, 0x01, 1)
    assert client.read(BAR, FILTERS, 1) == 0xFF
    client.write(BAR, FILTER, 0, 1)
    assert client.read(BAR, FILTERS, 1) == 0
