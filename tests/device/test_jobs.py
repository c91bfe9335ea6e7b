"""Jobs: they outlive the access that starts them, and live exactly as long as architecture.md says."""

import asyncio
import errno
import logging
from collections.abc import Iterator

import pytest

from vfuserver import DmaError, LocalError, PciDevice, PciIdentity, ResetReason, State, job
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import ANSWERING


class Worker(PciDevice):
    """Counts as long as it lives."""

    identity = PciIdentity(vendor=0x1234, device=0x0003)
    steps = State(0)
    cleaned = State(False)
    failed = State(0)

    @job
    async def count(self, limit: int) -> None:
        try:
            while self.steps < limit:
                self.steps += 1
                await asyncio.sleep(0)
        finally:
            self.cleaned = True

    @job(several=True)
    async def copy(self, iova: int) -> None:
        try:
            while True:
                await self.dma.read(iova, 4)
                await asyncio.sleep(0)
        except DmaError as error:
            self.failed = error.errno

    @job
    async def broken(self) -> None:
        raise ValueError("a bug")


@pytest.fixture
def device() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_job_runs_after_the_hook_that_started_it(device: Worker) -> None:
    device.count.start(3)
    assert (device.steps, device.count.running) == (0, True)
    await turns()
    assert (device.steps, device.count.running) == (3, False)


async def test_second_start_while_running_is_refused(device: Worker) -> None:
    device.count.start(3)
    with pytest.raises(LocalError, match=r"job count is running: ask count\.running first"):
        device.count.start(3)


async def test_several_runs_are_saved_in_order(device: Worker) -> None:
    device.stop()
    device.copy.start(1)
    device.copy.start(2)
    assert device.copy.saved() == [[1], [2]]


async def test_argument_that_is_not_plain_data_is_refused(device: Worker) -> None:
    with pytest.raises(LocalError, match="arguments must be plain data"):
        device.count.start(object())  # type: ignore[arg-type]


async def test_wrong_arguments_are_refused_at_start(device: Worker) -> None:
    with pytest.raises(TypeError, match="limit"):
        device.count.start()  # type: ignore[call-arg]
    assert not device.count.running


async def test_stopped_device_holds_its_job_at_the_next_await(device: Worker) -> None:
    """S3.9."""
    device.count.start(1000)
    await turns(5)
    device.stop()
    held = device.steps
    await turns(50)
    assert 0 < device.steps == held
    assert device.count.running
    device.run()
    await turns(5)
    assert device.steps > held


async def test_job_started_while_stopped_begins_when_the_device_runs(device: Worker) -> None:
    device.stop()
    device.count.start(2)
    await turns()
    assert device.steps == 0
    device.run()
    await turns()
    assert device.steps == 2


async def test_reset_ends_a_job_before_state_returns(device: Worker) -> None:
    device.count.start(1000)
    await turns(5)
    device.reset(ResetReason.MESSAGE)
    assert (device.steps, device.cleaned, device.count.running) == (0, False, False)
    await turns()
    assert device.steps == 0


async def test_cancel_runs_clean_up_at_once(device: Worker) -> None:
    device.count.start(1000)
    await turns(5)
    device.count.cancel()
    assert (device.cleaned, device.count.running) == (True, False)


async def test_disconnect_makes_dma_of_a_running_job_fail(device: Worker) -> None:
    with LocalClient(device) as client:
        client.enable()
        client.memory.add(0x1000, 0x1000)
        device.copy.start(0x1000)
        await turns(5)
        assert device.copy.running
    await turns(5)
    assert (device.failed, device.copy.running) == (errno.ENODEV, False)


async def test_next_client_does_not_get_the_last_one_s_dma(device: Worker) -> None:
    with LocalClient(device) as client:
        client.enable()
        client.memory.add(0x1000, 0x1000)
        device.copy.start(0x1000)
        await turns(5)
    with LocalClient(device) as client:
        client.memory.add(0x1000, 0x1000)
        await turns(5)
    assert device.failed == errno.ENODEV


async def test_job_goes_on_after_a_load_from_its_arguments(device: Worker) -> None:
    device.count.start(1000)
    await turns(5)
    device.stop()
    saved = device.snapshot()
    other = Worker()
    other.stop()
    other.restore(saved)
    assert (other.count.running, other.steps) == (True, device.steps)
    other.run()
    await turns(5)
    assert other.steps > device.steps
    other.close()


def test_job_started_without_a_loop_waits_for_one(device: Worker) -> None:
    device.count.start(3)
    assert device.count.running

    async def later() -> None:
        device.run()
        await turns()

    asyncio.run(later())
    assert device.steps == 3


async def test_failing_job_is_logged_and_over(device: Worker, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        device.broken.start()
        await turns()
    assert "worker: job broken failed: a bug" in caplog.text
    assert not device.broken.running


async def test_job_does_not_inherit_that_a_command_waits() -> None:
    class Asking(Worker):
        answering = State(True)

        @job
        async def ask(self) -> None:
            self.answering = ANSWERING.get()

    device = Asking()
    token = ANSWERING.set(True)
    device.ask.start()
    ANSWERING.reset(token)
    await turns()
    assert device.answering is False
    device.close()


async def test_job_that_resets_its_device_ends_at_its_next_await() -> None:
    class Suicidal(Worker):
        @job
        async def kill(self) -> None:
            self.reset(ResetReason.MESSAGE)
            await asyncio.sleep(0)
            self.steps = 99

    device = Suicidal()
    device.kill.start()
    await turns()
    assert (device.steps, device.kill.running) == (0, False)
    device.close()


async def test_close_ends_jobs(device: Worker) -> None:
    device.count.start(1000)
    await turns(3)
    device.close()
    assert not device.count.running


async def test_held_job_still_gets_what_it_waited_for(device: Worker) -> None:
    class Waiting(Worker):
        got = State(0)

        @job
        async def wait(self) -> None:
            self.got = await self.answer

        answer: asyncio.Future[int]

    waiting = Waiting()
    waiting.answer = asyncio.get_running_loop().create_future()
    waiting.wait.start()
    await turns(3)
    waiting.stop()
    waiting.answer.set_result(42)
    await turns(3)
    assert waiting.got == 0
    waiting.run()
    await turns(3)
    assert waiting.got == 42
    waiting.close()
