"""Timers: periodic and one-shot, held while stopped, disarmed by reset, saved with what is left."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from vfuserver import LocalError, PciDevice, PciIdentity, ResetReason, State, timer


class Ticking(PciDevice):
    """Counts."""

    identity = PciIdentity(vendor=0x1234, device=0x0004)
    ticks = State(0)
    rang = State(False)

    @timer(period=0.001)
    def tick(self) -> None:
        self.ticks += 1

    @timer
    def alarm(self) -> None:
        self.rang = True

    @timer
    def broken(self) -> None:
        raise ValueError("a bug")


@pytest.fixture
def device() -> Iterator[Ticking]:
    made = Ticking()
    yield made
    made.close()


async def test_periodic_timer_is_called_once_a_period(device: Ticking) -> None:
    device.tick.start()
    await asyncio.sleep(0.05)
    assert 25 <= device.ticks <= 60


async def test_one_shot_timer_is_called_once(device: Ticking) -> None:
    device.alarm.start(after=0.001)
    assert device.alarm.armed
    await asyncio.sleep(0.02)
    assert (device.rang, device.alarm.armed) == (True, False)


async def test_one_shot_timer_without_a_time_is_refused(device: Ticking) -> None:
    with pytest.raises(LocalError, match="timer alarm must have a time"):
        device.alarm.start()


async def test_stopped_timer_is_not_called(device: Ticking) -> None:
    device.alarm.start(after=0.001)
    device.alarm.stop()
    await asyncio.sleep(0.01)
    assert not device.rang


async def test_time_stands_still_while_the_device_is_stopped(device: Ticking) -> None:
    """S3.9."""
    device.alarm.start(after=0.02)
    device.stop()
    await asyncio.sleep(0.04)
    assert (device.rang, device.alarm.armed) == (False, True)
    device.run()
    await asyncio.sleep(0.005)
    assert not device.rang
    await asyncio.sleep(0.04)
    assert device.rang


async def test_timer_started_while_stopped_waits(device: Ticking) -> None:
    device.stop()
    device.alarm.start(after=0)
    await asyncio.sleep(0.01)
    assert not device.rang
    device.run()
    await asyncio.sleep(0.01)
    assert device.rang


async def test_reset_disarms(device: Ticking) -> None:
    device.tick.start()
    device.reset(ResetReason.MESSAGE)
    await asyncio.sleep(0.01)
    assert (device.ticks, device.tick.armed) == (0, False)


async def test_what_is_left_is_saved_and_restored(device: Ticking) -> None:
    device.alarm.start(after=5)
    await asyncio.sleep(0.01)
    device.stop()
    saved = device.snapshot()
    assert 4.5 < saved["timers"]["alarm"] < 5
    assert saved["timers"]["tick"] is None
    other = Ticking()
    other.restore(saved)
    assert other.alarm.left() == pytest.approx(saved["timers"]["alarm"], abs=0.1)
    other.close()


def test_timer_started_without_a_loop_waits_for_one(device: Ticking) -> None:
    device.alarm.start(after=0)

    async def later() -> None:
        device.run()
        await asyncio.sleep(0.01)

    asyncio.run(later())
    assert device.rang


async def test_failing_timer_is_logged(device: Ticking, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        device.broken.start(after=0)
        await asyncio.sleep(0.01)
    assert "ticking: timer broken failed" in caplog.text
