"""A device that would not be the same for its client refuses, says everything that differs, and harms nobody."""

import errno
import mmap
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.device.handover.carrying import carried, done, succeeded
from tests.device.handover.test_handover import Framed
from tests.device.migration.models import Everything
from vfuserver import (
    Bar,
    Card,
    CommandError,
    Doorbell,
    Function,
    Intx,
    KiB,
    Msi,
    MsiX,
    Option,
    PciDevice,
    PciIdentity,
    PowerManagement,
    State,
    VendorSpecific,
    job,
    timer,
)
from vfuserver.plain import Descriptor
from vfuserver.testing.local_client import LocalClient


class Model(PciDevice):
    """What the client has seen."""

    device_name = "model"
    identity = PciIdentity(vendor=0x1234, device=0x0077, subsystem=7)
    capabilities = (PowerManagement(), Msi(vectors=4), MsiX(vectors=8, table_bar=4))
    intx = Intx()
    level = Option(int, 3, "of something")
    mmio = Bar(0, size=4 * KiB)
    scratch = mmio.rw(0x00)
    bell = mmio.counter(0x04)
    rung = Doorbell(bell)
    frames = Bar(2, size=8 * KiB, backing=True)
    frame = frames.memory(0, 8 * KiB)
    tables = Bar(4, size=4 * KiB)
    number = State(1)

    @timer
    def tick(self) -> None:
        """Nothing."""

    @job
    async def work(self, count: int) -> None:
        """Nothing."""


class Larger(PciDevice):
    """Many things are different."""

    device_name = "model"
    identity = PciIdentity(vendor=0x1234, device=0x0078, subsystem=8)
    capabilities = (Msi(vectors=4), MsiX(vectors=4, table_bar=4))
    level = Option(int, 4, "of something")
    mmio = Bar(0, size=8 * KiB)
    scratch = mmio.rw(0x00, width=8)
    frames = Bar(2, size=8 * KiB, backing=True, mappable=[(0, 4 * KiB)], streamed=True)
    frame = frames.memory(0, 4 * KiB)
    other = frames.memory(4 * KiB, 4 * KiB)
    tables = Bar(4, size=4 * KiB)
    number = State("one")


def edited(**changes: Any) -> type[PciDevice]:
    """Model with other declarations; None takes one away."""
    kept = {name: value for name, value in vars(Model).items() if not name.startswith("__") and name != "declaration"}
    members = {name: value for name, value in {**kept, **changes}.items() if value is not None}
    return type("Edited", (PciDevice,), members)


async def refusal(before: PciDevice, after: PciDevice, change: Callable[[Any], None] = lambda data: None) -> str:
    """Why `after` does not take over; both are as they were."""
    untouched = [(one.snapshot(), one.config.image, one.gate.word, one.migration_state) for one in (before, after)]
    await done(before.pause())
    with carried(before) as data:
        change(data)
        with pytest.raises(CommandError) as raised:
            after.take_over(data)
    before.resume()
    assert [
        (one.snapshot(), one.config.image, one.gate.word, one.migration_state) for one in (before, after)
    ] == untouched
    assert raised.value.errno == errno.EINVAL
    return raised.value.message


async def test_everything_that_differs_is_said_a_line_each() -> None:
    before, after = Model(), Larger()
    view = mmap.mmap(before.regions[2].fd, 0)
    view[:4] = b"live"
    with LocalClient(before) as client:
        before.regions[0].io_events[0].open()
        text = await refusal(before, after)
        client.enable()
        client.write(0, 0, 5)
        assert client.read(0, 0) == 5
    assert view[:4] == b"live"
    before.close()
    after.close()
    view.close()
    assert text.splitlines() == [
        "model cannot take over, it is another device now:",
        "  option level is 4, was 3",
        "  BAR0 has 8192 bytes, was 4096",
        "  BAR2 can be mapped at 0x0+0x1000, was everywhere",
        "  BAR2 has memory at 0x0+0x1000 and at 0x1000+0x1000, was at 0x0+0x2000",
        "  interrupts: INTx has 0 vectors, was 1",
        "  interrupts: MSI-X has 4 vectors, was 8",
        "  migration offers STOP_COPY|P2P|PRE_COPY, was STOP_COPY|P2P",
        "  configuration space has Msi at 0x40 (24 bytes), was without it",
        "  configuration space has MsiX at 0x58 (12 bytes), was without it",
        "  configuration space has no PowerManagement at 0x40 (8 bytes), was with it",
        "  configuration space has no Msi at 0x48 (24 bytes), was with it",
        "  configuration space has no MsiX at 0x60 (12 bytes), was with it",
        "  device is 0x0078, was 0x0077",
        "  subsystem is 0x0008, was 0x0007",
        "  interrupt pin is 0x00, was 0x01",
        "  the register BAR0 scratch must be 8 bytes at 0x0, not 4 bytes at 0x0",
        "  the register BAR0 bell must be absent, not 4 bytes at 0x4",
        "  the register BAR4 msix_table must be 64 bytes at 0x0, not 128 bytes at 0x0",
        "  the State number must be str, not int",
        "  the Doorbell rung must have 0 registers, not 1",
        "  there is no timer tick",
        "  there is no job work",
        "  BAR0+0x4 has no such eventfd, and the client rings it",
    ]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"device_name": "another"}, "it is a another, was model"),
        ({"tables": Bar(4, size=4 * KiB, bits=64)}, "BAR4: kind is MEMORY64, was MEMORY32"),
        ({"tables": Bar(4, size=4 * KiB, backing=True, mappable=False)}, "BAR4: backing is True, was False"),
        ({"number": None}, "there is no State number"),
        (
            {"identity": PciIdentity(vendor=0x1234, device=0x0077, subsystem=7, revision=2)},
            "revision is 0x02, was 0x00",
        ),
        ({"intx": Intx(pin="B")}, "interrupt pin is 0x02, was 0x01"),
        (
            {"capabilities": (PowerManagement(), Msi(vectors=8), MsiX(vectors=8, table_bar=4))},
            "MSI has 8 vectors, was 4",
        ),
        (
            {"capabilities": (PowerManagement(), Msi(vectors=4), MsiX(vectors=8, table_bar=4), VendorSpecific(8))},
            "has VendorSpecific at 0x6c .8 bytes., was without it",
        ),
    ],
)
async def test_what_the_client_has_seen_must_stay(changes: dict[str, Any], why: str) -> None:
    before, after = Model(), edited(**changes)()
    assert re.search(why, await refusal(before, after))
    before.close()
    after.close()


async def test_what_nobody_has_seen_may_come_and_go() -> None:
    """An edit of a model's source: registers, State, jobs, timers and options are added, code is another."""
    mmio = Bar(0, size=4 * KiB)
    bell = mmio.counter(0x04)
    scratch = mmio.rw(0x00)
    more = {"mmio": mmio, "bell": bell, "scratch": scratch, "rung": Doorbell(bell), "new": mmio.rw(0x08, reset=9)}
    before, after = Model(), edited(**more, added=State([1]), speed=Option(int, 1, "new"))()
    before.number = 5
    await succeeded(before, after)
    assert (vars(after)["number"], vars(after)["added"]) == (5, [1])
    with LocalClient(after) as client:
        client.enable()
        assert client.read(0, 8) == 9
    after.close()


def other_format(data: dict[str, Any]) -> None:
    data["format"] = 2


def no_data(data: dict[str, Any]) -> None:
    data["parts"] = 1


def no_state(data: dict[str, Any]) -> None:
    data["parts"] = [part for part in data["parts"] if part[0] != "state"]


def unknown_part(data: dict[str, Any]) -> None:
    data["parts"].append(["weather", 1, b"N"])


def newer_part(data: dict[str, Any]) -> None:
    data["parts"][0][1] = 2


def damaged(data: dict[str, Any]) -> None:
    data["parts"][0][2] += b"N"


def wrong_file(data: dict[str, Any]) -> None:
    data["files"][0][2] = Descriptor(0)


def fewer_files(data: dict[str, Any]) -> None:
    data["files"].pop()


def no_eventfd(data: dict[str, Any]) -> None:
    data["bells"] = [[[5, 0x80, 4, None, False], [Descriptor(0)]]]


def no_memory(data: dict[str, Any]) -> None:
    data["memory"].clear()


def no_state_of_migration(data: dict[str, Any]) -> None:
    data["migration_state"] = 9


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (other_format, "takes over format 1, not 2"),
        (no_data, "must be another kind of data"),
        (no_state, "the section state is missing"),
        (unknown_part, "the section weather of version none, not 1"),
        (newer_part, "the section registers of version 1, not 2"),
        (damaged, "the section registers: .*1 bytes too many"),
        (wrong_file, "BAR0 has another file"),
        (fewer_files, "BAR4 has another file"),
        (no_eventfd, "BAR5.0x80 has no such eventfd"),
        (no_memory, "BAR5 has other memory"),
        (no_state_of_migration, "there is no migration state 9"),
    ],
)
async def test_data_that_cannot_be_is_refused(change: Callable[[Any], None], why: str) -> None:
    before, after = Framed(), Framed()
    assert re.search(why, await refusal(before, after, change))
    await succeeded(before, after)
    after.close()


async def test_invariants_of_the_model_count() -> None:
    """check_load()."""
    before, after = Everything(), Everything()
    before.number = 666
    assert "check_load() of the model: number must not be 666" in await refusal(before, after)
    before.close()
    after.close()


async def test_state_that_is_no_plain_data_is_eio_and_the_device_goes_on() -> None:
    device = Everything()
    device.queue.append(object())
    await done(device.pause())
    with pytest.raises(CommandError, match=r"everything\.queue must be plain data") as raised:
        device.hand_over()
    assert raised.value.errno == errno.EIO
    device.resume()
    device.close()


async def test_model_that_does_not_declare_its_state_is_enotsup() -> None:
    class Hidden(PciDevice):
        identity = PciIdentity(vendor=0x1234, device=0x0092)
        migrates = False

    device = Hidden()
    for ask in (device.pause, device.hand_over, lambda: device.take_over({})):
        with pytest.raises(CommandError, match=r"migrates = False.* declare that .*or stop the server") as raised:
            ask()
        assert raised.value.errno == errno.ENOTSUP
    device.resume()
    device.close()


class Port(PciDevice):
    """A function."""

    identity = PciIdentity(vendor=0x1234, device=0x0093)
    card: "Pair"
    mine = State(0)


class Pair(Card):
    """Two that share something that is declared."""

    sent = State([0])
    shift = Option(int, 1, "something")
    left = Function(Port)
    right = Function(Port)


class Changed(Card):
    """What is shared is of another type."""

    device_name = "pair"
    sent = State(0)
    shift = Option(int, 1, "something")
    left = Function(Port)
    right = Function(Port)


async def test_state_of_a_card_goes_along_with_its_functions() -> None:
    before, after = Pair(), Pair()
    before.sent.append(5)
    before.right.mine = 7
    for one, other in zip(before.functions, after.functions, strict=True):
        await succeeded(one, other)
    assert (after.sent, after.right.mine, Pair.sent.default) == ([0, 5], 7, [0])
    after.close()


async def test_card_with_other_state_refuses() -> None:
    before, after = Pair(), Changed()
    assert "the card's State sent must be int, not list" in await refusal(before.left, after.left)
    assert "its function on the card is 1, was 0" in await refusal(before.left, after.right)
    before.close()
    after.close()


async def test_card_with_attributes_that_it_does_not_declare_is_enotsup() -> None:
    """What they hold would be lost."""

    class Loose(Card):
        left = Function(Port)
        right = Function(Port)

    card = Loose()
    await done(card.right.pause())
    card.right.resume()
    card.letters = []  # type: ignore[attr-defined]
    with pytest.raises(CommandError, match="its card has letters, which Loose does not declare") as raised:
        card.right.pause()
    assert raised.value.errno == errno.ENOTSUP
    card.close()
