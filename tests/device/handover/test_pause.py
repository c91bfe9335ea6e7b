"""Standing still: what is under way ends before, or is held; what cannot be is refused with what it waits for."""

import asyncio
import errno
from collections.abc import Iterator

import pytest

from tests.device.handover.carrying import carried, done, reconnected
from tests.device.migration.moving import S, migration
from tests.device.migration.test_stopped import RAM, Held, Messenger, turns
from vfuserver import CommandError
from vfuserver.testing.local_client import LocalClient, LocalMemory
from vfuserver.vfio import Later, PciIrq


@pytest.fixture
def device() -> Iterator[Messenger]:
    made = Messenger()
    yield made
    made.close()


@pytest.fixture
def port() -> Held:
    return Held()


@pytest.fixture
def client(device: Messenger, port: Held) -> Iterator[LocalClient]:
    made = LocalClient(device)
    made.memory = LocalMemory(device.gate, port)
    made.memory.ioas.map(RAM, 0x1000, 3)
    with made:
        made.enable()
        made.arm(PciIrq.MSI, 2)
        yield made


async def finished(device: Messenger, port: Held) -> None:
    """Every transfer is answered until the job is done."""
    while device.work.running:
        await turns()
        port.answer()


async def test_dma_that_is_under_way_ends_before_and_is_not_begun_again(
    device: Messenger, client: LocalClient, port: Held
) -> None:
    client.write(0, 0, 3)
    await turns()
    later = device.pause()
    assert isinstance(later, Later)
    await turns()
    assert (later.done, len(port.waiting)) == (False, 1)
    client.write(0, 4, 1)  # and it is served meanwhile
    port.answer()
    while not later.done:
        await asyncio.sleep(0.001)
    await turns(20)
    assert (device.done, port.written, port.waiting, client.read(0, 4)) == (1, [RAM], [], 1)
    after = Messenger()
    with carried(device) as data:
        after.take_over(data)
    memory = LocalMemory(after.gate, port)
    memory.ioas.map(RAM, 0x1000, 3)
    other = reconnected(client, after, memory)
    after.resume()
    await finished(after, port)
    assert (after.done, port.written, after.failed) == (3, [RAM, RAM + 16, RAM + 32], 0)
    assert other.taken(PciIrq.MSI, 1) == 1
    other.close()
    after.close()


@pytest.mark.parametrize("how", ["cancelled", "resumed"])
async def test_pause_that_is_given_up_leaves_the_device_running(
    device: Messenger, client: LocalClient, port: Held, how: str
) -> None:
    client.write(0, 0, 2)
    await turns()
    later = device.pause()
    assert later is not None
    if how == "cancelled":
        later.cancel()
    device.resume()
    await finished(device, port)
    assert (device.done, client.taken(PciIrq.MSI, 1), device.failed) == (2, 1, 0)


async def test_pause_at_once_holds_what_is_under_way_and_resume_lets_it_end(
    device: Messenger, client: LocalClient, port: Held
) -> None:
    """Whoever takes over then begins it anew, from its arguments and State."""
    client.write(0, 0, 2)
    await turns()
    assert device.pause(at_once=True) is None
    port.answer()
    await turns(20)
    assert (device.done, port.written) == (0, [])
    assert [part for part in device.hand_over()["parts"] if part[0] == "jobs"] != []
    device.resume()
    await finished(device, port)
    assert (device.done, port.written, device.failed) == (2, [RAM, RAM + 16], 0)


async def test_transfer_that_was_held_at_once_ends_where_the_brake_comes_on_again(
    device: Messenger, client: LocalClient, port: Held
) -> None:
    """Gently, before its job has got its turn: as where quiesce() looks at that very moment."""
    client.write(0, 0, 2)
    await turns()
    device.pause(at_once=True)
    port.answer()
    await turns(20)
    device.resume()
    device.activity.hold(gently=True)
    await turns(20)
    assert (device.done, port.written, device.dma.outstanding) == (1, [RAM], 0)
    device.activity.release()
    await finished(device, port)
    assert (device.done, port.written, device.failed) == (2, [RAM, RAM + 16], 0)


async def test_patience_that_ends_in_at_once_is_no_arc_of_its_own(
    device: Messenger, client: LocalClient, port: Held
) -> None:
    """The one that waits does not wake the device when its DMA has ended."""
    client.write(0, 0, 2)
    await turns()
    device.pause()
    device.pause(at_once=True)
    port.answer()
    await asyncio.sleep(0.01)
    assert (device.gate.word & 0x100, device.activity.brake.on, device.done) == (0, True, 0)
    device.resume()
    await finished(device, port)
    assert (device.done, device.failed) == (2, 0)


async def test_access_that_waits_for_its_answer_is_ebusy(device: Messenger, client: LocalClient) -> None:
    later = device.activity.answer(device.read_slowly(), "BAR0+0x8 (slow)")
    with pytest.raises(CommandError, match=r"slow.* must be answered first") as raised:
        device.pause()
    assert raised.value.errno == errno.EBUSY
    assert device.pause(at_once=True) is None
    device.resume()
    while not later.done:
        await asyncio.sleep(0.001)
    await done(device.pause())
    device.resume()


async def test_arc_that_waits_for_dma_waits_for_resume_too(device: Messenger, client: LocalClient, port: Held) -> None:
    """S3.10: where it is paused at once meanwhile."""
    client.write(0, 0, 2)
    await turns()
    later = migration(device).arc(S.RUNNING, S.RUNNING_P2P)
    assert later is not None
    device.pause(at_once=True)
    port.answer()
    await asyncio.sleep(0.01)
    assert (later.done, device.done, device.gate.word & 0x100) == (False, 0, 0)
    device.resume()
    while not later.done:
        await asyncio.sleep(0.001)
        port.answer()
    assert (len(port.written), device.dma.outstanding, device.gate.word & 0x300) == (device.done, 0, 0x300)


async def test_arc_that_waits_for_dma_is_ebusy(device: Messenger, client: LocalClient, port: Held) -> None:
    """Two that wait would end in the pace of the one that came first."""
    client.write(0, 0, 2)
    await turns()
    later = migration(device).arc(S.RUNNING, S.RUNNING_P2P)
    assert later is not None
    with pytest.raises(CommandError, match="about to stop") as raised:
        device.pause()
    assert raised.value.errno == errno.EBUSY
    later.cancel()
    await finished(device, port)
    assert device.done == 2
