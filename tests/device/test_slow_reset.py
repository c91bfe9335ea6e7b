"""Resets that take time, asked for through configuration space: the write is answered when the reset is complete.

S2.26 (function level resets, before the reply), S2.23 (D3hot to D0), S3.6; architecture, Answering later.
"""

import asyncio
import errno
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from tests.session.harness import SPECIFIED, Message, Wire, command
from vfuserver import (
    AdvancedFeatures,
    Bar,
    CommandError,
    Later,
    PciDevice,
    PciExpress,
    PciIdentity,
    PowerManagement,
    ResetReason,
    VendorSpecific,
)
from vfuserver.client import Client
from vfuserver.engine import Server, listen
from vfuserver.session import SessionOptions, State
from vfuserver.vfio import PciRegion
from vfuserver.wire import NO_REPLY

READ, WRITE, MULTI, RESET = command(9), command(10), command(15), command(13)
COMMAND: Final = 0x04
PMCSR, AF_CONTROL, VENDOR, DEVCTL = 0x44, 0x4C, 0x50, 0x60
D3_HOT, D0 = 3, 0
FLR: Final = (DEVCTL, b"\x00\x80")
AF_FLR: Final = (AF_CONTROL, b"\x01")
TO_D0: Final = (PMCSR, b"\x00\x00")
FILLING: Final = bytes(range(1, 6))

every_trigger = pytest.mark.parametrize(
    ("trigger", "reason"),
    [(FLR, ResetReason.FLR), (AF_FLR, ResetReason.FLR), (TO_D0, ResetReason.POWER)],
    ids=["flr", "af_flr", "pm"],
)


class Slow(PciDevice):
    """Its registers are reset at once, and then something else takes its time."""

    identity = PciIdentity(vendor=0x1234, device=0x0001)
    capabilities = (
        PowerManagement(),
        AdvancedFeatures(),
        VendorSpecific(length=8, writable=b"\xff" * 5),
        PciExpress(flr=True),
    )
    mmio = Bar(0, size=4096)
    scratch = mmio.rw(0x00)

    def __init__(self) -> None:
        self.laters: list[Later] = []
        self.reasons: list[ResetReason] = []
        self.stopped = 0
        self.at_once = False
        super().__init__()

    def reset(self, reason: ResetReason) -> Later:
        """Complete when a test says so."""
        super().reset(reason)
        self.reasons.append(reason)
        self.laters.append(Later("slow: reset", on_cancel=self.stop_resetting))
        if self.at_once:
            self.laters[-1].set_result()
        return self.laters[-1]

    def stop_resetting(self) -> None:
        """Nobody waits any more."""
        self.stopped += 1


@pytest.fixture
def device() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.close()


@pytest.fixture
def wire(device: Slow) -> Iterator[Wire]:
    """Memory is enabled, and the function is in D3hot, from where all three ways lead to a reset."""
    made = Wire(device, SessionOptions(write_multiple=True, quirks=SPECIFIED.quirks))
    made.negotiate(b'{"capabilities":{"max_msg_fds":8,"write_multiple":true}}\0')
    assert write(made, COMMAND, b"\x07\x00")[0].errno == 0
    assert write(made, PMCSR, b"\x03\x00")[0].errno == 0
    yield made
    made.close()


def write(wire: Wire, offset: int, data: bytes, flags: int = 0) -> list[Message]:
    request = WRITE.request.build(offset=offset, region=PciRegion.CONFIG, data=data)
    return wire.send(WRITE.number, request, flags=flags)


def read(wire: Wire, offset: int, count: int) -> list[Message]:
    return wire.send(READ.number, READ.request.pack(offset, PciRegion.CONFIG, count))


def data_of(message: Message) -> bytes:
    assert not message.errno
    return bytes(READ.reply.parse(message.payload).data)


@every_trigger
def test_the_write_is_answered_when_the_reset_is_complete(
    wire: Wire, device: Slow, trigger: tuple[int, bytes], reason: ResetReason
) -> None:
    assert write(wire, *trigger) == []
    assert wire.session.state is State.HELD
    assert device.reasons == [reason]
    device.laters[0].set_result()
    (reply,) = wire.take()
    assert (reply.header.command, reply.errno) == (WRITE.number, 0)
    assert data_of(read(wire, PMCSR, 1)[0]) == bytes([D0])


@every_trigger
def test_commands_behind_it_wait_and_are_answered_in_order(
    wire: Wire, device: Slow, trigger: tuple[int, bytes], reason: ResetReason
) -> None:
    """They find the device as it is after the reset."""
    assert write(wire, *trigger) == []
    assert write(wire, COMMAND, b"\x02\x00") == []
    assert read(wire, COMMAND, 2) == []
    assert wire.send(RESET.number) == []
    assert device.config.read(COMMAND, 2) == 0
    device.laters[0].set_result()
    first, second, third = wire.take()
    assert [one.header.command for one in (first, second, third)] == [WRITE.number, WRITE.number, READ.number]
    assert data_of(third) == b"\x02\x00"
    assert device.reasons == [reason, ResetReason.MESSAGE]
    device.laters[1].set_result()
    assert [one.header.command for one in wire.take()] == [RESET.number]


def test_a_reset_that_misses_the_deadline_is_etimedout_and_stopped(
    wire: Wire, device: Slow, caplog: pytest.LogCaptureFixture
) -> None:
    write(wire, *FLR)
    assert read(wire, 0, 2) == []
    wire.clock.advance(4)
    late, behind = wire.take()
    assert (late.errno, device.stopped) == (errno.ETIMEDOUT, 1)
    assert data_of(behind) == b"\x34\x12"
    assert "slow: reset: no answer within 4 s" in caplog.text
    device.laters[0].set_result()
    assert wire.take() == []


@pytest.mark.parametrize(
    ("error", "expected"), [(CommandError(errno.EAGAIN, "not now"), errno.EAGAIN), (RuntimeError("boom"), errno.EIO)]
)
def test_a_reset_that_fails_is_an_error_reply(wire: Wire, device: Slow, error: Exception, expected: int) -> None:
    write(wire, *AF_FLR)
    device.laters[0].set_error(error)
    assert [one.errno for one in wire.take()] == [expected]


def test_without_reply_it_is_silent_and_still_holds(wire: Wire, device: Slow) -> None:
    assert write(wire, *FLR, flags=NO_REPLY) == []
    assert read(wire, 0, 2) == []
    device.laters[0].set_result()
    assert [data_of(one) for one in wire.take()] == [b"\x34\x12"]


def test_the_rest_of_the_write_follows_the_reset(wire: Wire, device: Slow) -> None:
    """S2.4: piece after piece; what lies behind the bit is written to a function that was reset."""
    assert write(wire, AF_CONTROL, b"\x01\0\0\0" + b"\0\0\0" + FILLING) == []
    assert device.config.access(VENDOR + 3, 5, None) == bytes(5)
    device.laters[0].set_result()
    assert [one.errno for one in wire.take()] == [0]
    assert device.config.access(VENDOR + 3, 5, None) == FILLING


def test_two_resets_of_one_write_come_one_after_the_other(wire: Wire, device: Slow) -> None:
    """From D3hot by PMCSR, then by AF's bit."""
    assert write(wire, PMCSR, b"\0\0\0\0\0\0\0\0\x01") == []
    assert device.reasons == [ResetReason.POWER]
    device.laters[0].set_result()
    assert wire.take() == []
    assert device.reasons == [ResetReason.POWER, ResetReason.FLR]
    device.laters[1].set_result()
    assert [one.errno for one in wire.take()] == [0]


def test_what_should_follow_a_reset_that_failed_does_not(wire: Wire, device: Slow) -> None:
    write(wire, AF_CONTROL, b"\x01\0\0\0" + b"\0\0\0" + FILLING)
    device.laters[0].set_error(CommandError(errno.EIO))
    assert [one.errno for one in wire.take()] == [errno.EIO]
    assert device.config.access(VENDOR + 3, 5, None) == bytes(5)


def test_the_second_of_two_resets_is_stopped_at_the_deadline(wire: Wire, device: Slow) -> None:
    write(wire, PMCSR, b"\0\0\0\0\0\0\0\0\x01")
    device.laters[0].set_result()
    wire.clock.advance(4)
    assert [one.errno for one in wire.take()] == [errno.ETIMEDOUT]
    assert (device.stopped, device.laters[1].done) == (1, True)


def test_writes_of_a_list_wait_for_it(wire: Wire, device: Slow) -> None:
    """REGION_WRITE_MULTI: each as if it had come alone."""
    entries = [(offset, data) for offset, data in (FLR, (COMMAND, b"\x02\x00"))]
    request = MULTI.request.build(
        wrs=[
            {"offset": offset, "region": PciRegion.CONFIG, "count": len(data), "data": data.ljust(8, b"\0")}
            for offset, data in entries
        ]
    )
    assert wire.send(MULTI.number, request) == []
    assert device.config.read(COMMAND, 2) == 0
    device.laters[0].set_result()
    assert [one.errno for one in wire.take()] == [0]
    assert device.config.read(COMMAND, 2) == 2


def test_a_client_that_goes_meanwhile_stops_it(wire: Wire, device: Slow) -> None:
    write(wire, *FLR)
    wire.close()
    assert (device.stopped, device.client) == (1, None)
    device.laters[0].set_result()
    assert wire.outputs == 0


def test_a_reset_that_is_complete_already_is_answered_at_once(wire: Wire, device: Slow) -> None:
    """A Later that is done when it is returned holds nobody, and what follows in the write is written."""
    device.at_once = True
    assert [one.errno for one in write(wire, AF_CONTROL, b"\x01\0\0\0" + b"\0\0\0" + FILLING)] == [0]
    assert device.config.access(VENDOR + 3, 5, None) == FILLING
    assert wire.session.state is State.READY


async def test_a_real_client_waits_for_it_and_finds_its_pipeline_answered_in_order() -> None:
    """Through a socket: 100 commands behind the reset, while another device of the same server answers."""
    with TemporaryDirectory(prefix="vfu-") as folder:
        slow, other = Slow(), Slow()
        async with Server() as server:
            server.add(slow, listen(Path(folder) / "slow"))
            server.add(other, listen(Path(folder) / "other"))
            async with (
                await Client.connect(Path(folder) / "slow") as client,
                await Client.connect(Path(folder) / "other") as neighbour,
            ):
                await client.enable()
                await client.region_write(0, 0, b"\x11\0\0\0")
                answered: list[int] = []

                def answer(number: int, _: object) -> None:
                    answered.append(number)

                reset = asyncio.create_task(client.config_write(DEVCTL, 0x8000, 2))
                reset.add_done_callback(partial(answer, -1))
                await asyncio.sleep(0)
                behind = [asyncio.create_task(client.config_read(0, 2)) for _ in range(100)]
                for number, task in enumerate(behind):
                    task.add_done_callback(partial(answer, number))
                while not slow.laters:
                    await asyncio.sleep(0.001)
                assert await neighbour.config_read(0, 2) == 0x1234
                assert answered == []
                slow.laters[0].set_result()
                await reset
                assert await asyncio.gather(*behind) == [0x1234] * 100
                assert answered == list(range(-1, 100))
                assert await client.config_read(COMMAND, 2) == 0
                await client.enable()
                assert await client.region_read(0, 0, 4) == bytes(4)
