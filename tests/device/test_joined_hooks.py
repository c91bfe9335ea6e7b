"""on_latest_write and on_writes: what a class may declare, and what other ways to a register do with them."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

from vfuserver import RW, W1C, Bar, DeclarationError, Doorbell, PciDevice, PciIdentity, describe
from vfuserver.registers import COUNTER, RESERVED, Policy
from vfuserver.testing.local_client import LocalClient

IDENTITY = PciIdentity(vendor=0x1234, device=0x000B)


class Kicked(PciDevice):
    """Every way to be told of writes that came together."""

    identity = IDENTITY
    mmio = Bar(0, size=4096)
    tail = mmio.rw(0x00)
    commands = mmio.wo(0x04)
    tails = mmio.array(0x10, RW, count=2)
    slots = mmio.array(0x20, RW, count=2)
    tail_by_eventfd = Doorbell(tail)
    commands_by_eventfd = Doorbell(commands)

    def __init__(self, **options: Any) -> None:
        self.seen: list[Any] = []
        super().__init__(**options)

    @tail.on_latest_write
    def on_tail(self, value: int) -> int:
        self.seen.append(value)
        return value + 1

    @commands.on_writes
    def on_commands(self, values: list[int]) -> None:
        self.seen.append(values)

    @tails.on_latest_write
    def on_tails(self, element: int, value: int) -> None:
        self.seen.append((element, value))

    @slots.on_writes
    def on_slots(self, element: int, values: list[int]) -> None:
        self.seen.append((element, values))


@pytest.fixture
def device() -> Iterator[Kicked]:
    made = Kicked()
    yield made
    made.close()


@pytest.fixture
def client(device: Kicked) -> Iterator[LocalClient]:
    with LocalClient(device) as attached:
        attached.enable()
        yield attached


def test_single_write_is_a_value_or_a_list_of_one(client: LocalClient, device: Kicked) -> None:
    """As it is on every engine that hands on one write after the other."""
    for offset in (0x00, 0x04, 0x14, 0x24):
        client.write(0, offset, 5)
    assert device.seen == [5, [5], (1, 5), (1, [5])]
    assert (device.tail, device.commands, device.tails[1]) == (6, 5, 5)


@pytest.mark.parametrize(("offset", "seen"), [(0x00, [0]), (0x04, [[0], [0], [0]])])
def test_rings_of_an_eventfd_are_one_call_where_only_the_latest_counts(
    client: LocalClient, device: Kicked, offset: int, seen: list[Any]
) -> None:
    (bell,) = [one for one in device.regions[0].io_events if one.offset == offset]
    os.eventfd_write(bell.open()[0], 3)
    bell.rung()
    assert device.seen == seen
    os.eventfd_write(bell.open()[0], 1)
    bell.rung()
    assert len(device.seen) == len(seen) + 1


def test_describe_says_how_a_hook_is_called() -> None:
    rows = {row["name"]: row["hooks"] for row in describe(Kicked)["bars"][0]["registers"]}
    assert rows == {"tail": ["latest write"], "commands": ["writes"], "tails": ["latest write"], "slots": ["writes"]}


@pytest.mark.parametrize("policy", [W1C(0xFF), RW(0xFF) | W1C(0xFF00), COUNTER()])
def test_register_on_which_each_write_counts_is_refused(policy: Policy) -> None:
    with pytest.raises(DeclarationError, match=r"Wrong.mmio.status at 0x0: only writes that are stored.*on_write"):

        class Wrong(PciDevice):
            """A write of ones is lost with each that is left out."""

            identity = IDENTITY
            mmio = Bar(0, size=4096)
            status = mmio.register(0, policy)

            @status.on_latest_write
            def hook(self, value: int) -> None: ...


def test_split_register_is_refused() -> None:
    with pytest.raises(DeclarationError, match="must be an on_write"):

        class Wrong(PciDevice):
            """Its halves are no writes of the whole."""

            identity = IDENTITY
            mmio = Bar(0, size=4096)
            base = mmio.rw(0, width=8, split="lo-hi")

            @base.on_writes
            def hook(self, values: list[int]) -> None: ...


def test_register_that_ignores_writes_may_still_tell_of_them() -> None:
    class Ignoring(PciDevice):
        """A doorbell that stores nothing."""

        identity = IDENTITY
        mmio = Bar(0, size=4096)
        bell = mmio.register(0, RESERVED)

        @bell.on_writes
        def hook(self, values: list[int]) -> None: ...

    Ignoring().close()


def test_second_write_hook_is_refused_whatever_its_kind() -> None:
    with pytest.raises(DeclarationError, match="must have one write_hook"):

        class Wrong(PciDevice):
            """Two answers to one write."""

            identity = IDENTITY
            mmio = Bar(0, size=4096)
            bell = mmio.wo(0)

            @bell.on_write
            def first(self, value: int) -> None: ...

            @bell.on_latest_write
            def second(self, value: int) -> None: ...


def test_hook_with_other_parameters_is_refused_by_name() -> None:
    with pytest.raises(DeclarationError, match=r"must take \(self, values\), not 1 parameters"):

        class Wrong(PciDevice):
            """A hook that takes nothing."""

            identity = IDENTITY
            mmio = Bar(0, size=4096)
            bell = mmio.wo(0)

            @bell.on_writes  # type: ignore[type-var]
            def hook(self) -> None: ...
