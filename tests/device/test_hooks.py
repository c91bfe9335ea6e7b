"""Hooks: plain functions with plain ints, and coroutines that answer later."""

import asyncio
import logging
from collections.abc import Callable, Iterator

import pytest

from vfuserver import Bar, CommandError, KiB, LocalError, PciDevice, PciIdentity, ResetReason
from vfuserver.registers import RW
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import ANSWERING, Later


class Hooked(PciDevice):
    """A register for each kind of hook."""

    identity = PciIdentity(vendor=0x1234, device=0x0002)
    mmio = Bar(0, size=4 * KiB)
    inverted = mmio.rw(0x00)
    wide = mmio.rw(0x08, width=8)
    numbers = mmio.array(0x10, RW, count=4)
    broken = mmio.rw(0x20)
    refusing = mmio.rw(0x24)
    slow = mmio.rw(0x28, reset=5)
    seen: int = 0
    answering: bool = False

    @inverted.on_write
    def invert(self, value: int) -> int:
        return ~value & 0xFFFF_FFFF

    @wide.on_write
    def see(self, value: int) -> None:
        self.seen = value

    @numbers.on_read
    def number(self, element: int) -> int:
        return element * 10

    @numbers.on_write
    def see_number(self, element: int, value: int) -> None:
        self.seen = element << 8 | value

    @broken.on_read
    def fail(self) -> int:
        raise ValueError("a bug")

    @refusing.on_write
    def refuse(self, _value: int) -> None:
        raise CommandError(28)

    @slow.on_read
    async def answer(self) -> int:
        self.answering = ANSWERING.get()
        await asyncio.sleep(0)
        return self.slow + 1


@pytest.fixture
def device() -> Iterator[Hooked]:
    made = Hooked()
    yield made
    made.close()


@pytest.fixture
def client(device: Hooked) -> Iterator[LocalClient]:
    with LocalClient(device) as attached:
        attached.enable()
        yield attached


def test_write_hook_returns_what_is_stored(client: LocalClient, device: Hooked) -> None:
    client.write(0, 0, 1)
    assert client.read(0, 0) == device.inverted == 0xFFFF_FFFE


def test_write_hook_sees_the_whole_merged_value(client: LocalClient, device: Hooked) -> None:
    client.write(0, 8, 0x1111_2222_3333_4444, 8)
    client.write(0, 10, 0x5555, 2)
    assert device.seen == 0x1111_2222_5555_4444


def test_array_hooks_get_the_element(client: LocalClient, device: Hooked) -> None:
    assert client.read(0, 0x18) == 20
    client.write(0, 0x1C, 7)
    assert (device.seen, list(device.numbers)) == (0x307, [0, 0, 0, 7])


def test_exception_in_a_hook_is_eio(client: LocalClient) -> None:
    with pytest.raises(CommandError) as raised:
        client.read(0, 0x20)
    assert raised.value.errno == 5


def test_command_error_of_a_hook_keeps_its_errno(client: LocalClient) -> None:
    with pytest.raises(CommandError) as raised:
        client.write(0, 0x24, 1)
    assert raised.value.errno == 28


def test_hooks_do_not_run_while_the_device_is_stopped(client: LocalClient, device: Hooked) -> None:
    """S3.9."""
    device.stop()
    client.write(0, 0, 1)
    assert client.read(0, 0) == 0
    device.run()
    client.write(0, 0, 1)
    assert client.read(0, 0) == 0xFFFF_FFFE


def test_subclass_overrides_a_hook_by_its_name() -> None:
    class Doubled(Hooked):
        def invert(self, value: int) -> int:
            return value * 2

    device = Doubled()
    with LocalClient(device) as client:
        client.enable()
        client.write(0, 0, 4)
        assert client.read(0, 0) == 8
    device.close()


def hook_of(device: Hooked) -> Callable[[], Later]:
    """What the core calls for a read of `slow`."""
    bound = device._hook(Hooked.slow.read_hook, "BAR0+0x28 (slow)")
    assert bound is not None
    return bound


async def test_asynchronous_register_answers_later(device: Hooked) -> None:
    later = hook_of(device)()
    answers: list[object] = []
    later.when_done(answers.append)
    assert answers == []
    await asyncio.sleep(0.01)
    assert answers == [6]
    assert device.answering


async def test_asynchronous_register_fails_a_caller_that_cannot_wait(client: LocalClient) -> None:
    with pytest.raises(LocalError):
        client.read(0, 0x28)


async def test_cancelled_answer_ends_its_coroutine(device: Hooked) -> None:
    later = hook_of(device)()
    later.cancel()
    await asyncio.sleep(0.01)
    assert later.done


async def test_reset_answers_what_was_outstanding_with_an_error(device: Hooked) -> None:
    later = hook_of(device)()
    answers: list[object] = []
    later.when_done(answers.append)
    device.reset(ResetReason.FLR)
    assert isinstance(answers[0], CommandError)


async def test_failure_of_an_asynchronous_hook_is_logged(device: Hooked, caplog: pytest.LogCaptureFixture) -> None:
    device.slow = 1

    async def fail() -> int:
        raise ValueError("a bug")

    answers: list[object] = []
    with caplog.at_level(logging.ERROR):
        device.activity.answer(fail(), "BAR0+0x28 (slow)").when_done(answers.append)
        await asyncio.sleep(0.01)
    assert isinstance(answers[0], ValueError)
    assert "hooked: BAR0+0x28 (slow) failed: a bug" in caplog.text
