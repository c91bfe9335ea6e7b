"""What is in a stream: everything that was declared, and configuration space (S3.16, S2.31)."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.device.migration.models import Everything
from tests.device.migration.moving import START, S, go, load, read_all, save
from vfuserver import CommandError, PciDevice, UncorrectableError, load_model
from vfuserver.device import function_classes, power_on
from vfuserver.device.migration import DeviceMigration
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import MigrationError, PciIrq

MSIX, MSI = PciIrq.MSIX, PciIrq.MSI


@pytest.fixture
def pair() -> Iterator[tuple[Everything, Everything]]:
    made = Everything(), Everything()
    yield made
    for one in made:
        one.close()


def used(device: Everything) -> None:
    """Changes everything about a device."""
    device.number, device.wide, device.ratio, device.text = -5, -(1 << 99), float("inf"), "büsy\ud800"
    device.buffer[2] = 9
    device.queue += [None, True, (1, b"x"), bytearray(b"y"), [{}]]
    device.table.update({"b": 1, (1, 2): 2.5, 3: "x", b"": None})
    with LocalClient(device) as client:
        client.enable()
        client.write(0, 0x00, 0x1234)
        client.write(0, 0x08, 0xAAAA)  # half of a split register
        client.write(0, 0x14, 7)
        client.write(0, 0x800, 1)  # undeclared
        client.write(4, 0x0C, 0)
        device.window[3:6] = b"abc"
        client.arm(MSIX, 3)
        client.mask(MSIX, 2)
        device.interrupt(2)
        device.report_error(UncorrectableError.POISONED_TLP, bytes(range(16)))
        vpd = next(one.start for one in device.config.capabilities if one.name == "VitalProductData")
        client.write_config(vpd + 4, b"VPD!")
        client.write_config(vpd + 2, (0x8008).to_bytes(2, "little"))
        client.write_config(0x3C, b"\x0b")
    device.alarm.start(after=100)


def state(device: PciDevice) -> dict[str, object]:
    """Everything that a device remembers, timers apart: these go on."""
    saved = device.snapshot()
    saved.pop("timers")
    return {**saved, "image": device.config.image, "stores": device.config.saved(), "gate": device.gate.word & 7}


async def test_everything_declared_and_configuration_space_arrive(pair: tuple[Everything, Everything]) -> None:
    """S2.31, S3.16."""
    one, other = pair
    used(one)
    data = await save(one)
    other.number = 99
    await load(other, data)
    assert state(other) == state(one)
    assert 90 < (other.alarm.left() or 0) <= 100
    assert (type(other.queue[2]), type(other.buffer), list(other.table)) == (tuple, bytearray, ["b", (1, 2), 3, b""])
    assert other.mmio.undeclared == 1
    assert (one.seen, other.seen) == (("saved",), ("loaded",))


async def test_half_of_a_split_register_waits_for_the_other_one(pair: tuple[Everything, Everything]) -> None:
    """S2.31: an 8-byte register of which 4 bytes were written."""
    used(pair[0])
    await load(pair[1], await save(pair[0]))
    await go(pair[1], *START[1:])
    with LocalClient(pair[1]) as client:
        client.enable()
        assert client.read(0, 0x08, 8) == 0
        client.write(0, 0x0C, 0xBBBB)
        assert client.read(0, 0x08, 8) == 0xBBBB_0000_AAAA


async def test_same_state_gives_the_same_stream(pair: tuple[Everything, Everything]) -> None:
    """S3.16: a stream is deterministic."""
    first = await save(pair[0])
    assert await save(pair[1]) == first
    await go(pair[0], S.STOP_COPY, S.STOP, S.STOP_COPY)
    assert read_all(pair[0], 13) == first


async def test_pending_interrupt_is_sent_once_where_it_arrives(pair: tuple[Everything, Everything]) -> None:
    """S3.24, S3.16: it waits for SET_IRQS there."""
    one, other = pair
    with LocalClient(one) as client:
        client.enable()
        client.arm(MSIX, 3)
        client.mask(MSIX, 1)
        one.interrupt(1)
        data = await save(one)
    await load(other, data)
    with LocalClient(other) as client:
        await go(other, *START[1:])
        client.arm(MSIX, 3)
        assert [client.taken(MSIX, vector) for vector in range(3)] == [0, 1, 0]
        client.arm(MSIX, 3)
        assert client.taken(MSIX, 1) == 0


async def test_asserted_line_is_signalled_where_it_arrives(pair: tuple[Everything, Everything]) -> None:
    """S3.24: a level."""
    pair[0].interrupt()
    await load(pair[1], await save(pair[0]))
    await go(pair[1], *START[1:])
    with LocalClient(pair[1]) as client:
        client.arm(PciIrq.INTX)
        assert client.taken(PciIrq.INTX) == 1
        assert client.read_config(0x06, 1)[0] & 8


async def test_jobs_start_again_from_their_arguments(pair: tuple[Everything, Everything]) -> None:
    one, other = pair
    one.stop()
    one.work.start(2)
    one.work.start(3, label="last")
    await load(other, await save(one))
    assert other.number == 1
    await go(other, *START[1:])
    while other.work.running:
        await asyncio.sleep(0)
    assert (other.number, other.text) == (6, "last")


async def test_d3hot_arrives(pair: tuple[Everything, Everything]) -> None:
    """S2.31: the power state, and with it that BARs do not answer."""
    one, other = pair
    pm = next(cap.start for cap in one.config.capabilities if cap.name == "PowerManagement")
    one.config.write(4, 2, 7)
    one.config.write(pm + 4, 2, 3)
    await load(other, await save(one))
    assert other.gate.word & 7 == 0
    other.config.write(pm + 4, 2, 0)
    assert other.config.image == other.config.reset_image


@pytest.mark.parametrize(("state_", "why"), [("number", "check_load"), ("text", "State text must be str, not int")])
async def test_state_that_must_not_be_is_refused(pair: tuple[Everything, Everything], state_: str, why: str) -> None:
    """S3.15: the model's own invariants, and the type."""
    one, other = pair
    before = state(other)
    if state_ == "number":
        one.number = 666
        data = await save(one)
    else:
        one.declaration.states["text"].default = 1
        one.text = 666  # type: ignore[assignment]
        data = await save(one)
        one.declaration.states["text"].default = "idle"
    with pytest.raises(CommandError, match=why):
        await load(other, data)
    assert state(other) == before
    assert other.seen == ()


async def test_on_load_that_fails_leaves_error(pair: tuple[Everything, Everything]) -> None:
    """S3.7, S3.8: the device stays stopped until a reset."""
    pair[0].text = "cannot"
    data = await save(pair[0])
    with pytest.raises(MigrationError, match="on_load") as raised:
        await load(pair[1], data)
    assert raised.value.state is S.ERROR
    assert not pair[1].gate.word & pair[1].gate.RUNNING


@pytest.mark.parametrize("name", ["testdev", "edu", "gpio-idio-16", "pvpanic", "idio-pair"])
async def test_every_device_migrates(name: str) -> None:
    """S3.2: nothing has to be done for it."""
    first, second = power_on(load_model(name), {}), power_on(load_model(name), {})
    try:
        assert len(first) == len(function_classes(load_model(name)))
        for one, other in zip(first, second, strict=True):
            assert isinstance(one.migration, DeviceMigration)
            await load(other, await save(one))
            assert state(other) == state(one)
    finally:
        for one in (*first, *second):
            one.close()


def test_device_that_says_so_does_not_migrate() -> None:
    """S3.2."""

    class Stays(Everything):
        migrates = False

    device = Stays()
    assert device.migration is None
    device.close()
