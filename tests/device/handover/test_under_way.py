"""A migration that is under way goes on in another process: a client's stream has no gap, and nothing twice."""

import asyncio
from typing import TypeVar

import pytest

from tests.device.handover.carrying import carried, done, succeeded
from tests.device.migration.models import Everything, Streamed, Tiny
from tests.device.migration.moving import START, S, feed, go, load, migration, read_all
from tests.device.migration.test_save_and_load import used
from vfuserver import CommandError, PciDevice, ResetReason
from vfuserver import load as load_class
from vfuserver.testing.local_client import LocalClient

TO_SAVE = (S.RUNNING, S.RUNNING_P2P, S.STOP, S.STOP_COPY)
TO_LOAD = (S.RUNNING, S.RUNNING_P2P, S.STOP, S.RESUMING)
D = TypeVar("D", bound=PciDevice)
PIECES = (1, 15, 700, 4096)


async def stands(device: PciDevice, *states: S) -> None:
    """Goes there, as whoever serves it notes."""
    await go(device, *states)
    device.migration_state = states[-1]


async def replaced(device: D, refuse: bool) -> D:
    """Another object goes on, or, after a refusal, the same one."""
    if not refuse:
        other = type(device)()
        await succeeded(device, other)
        return other
    await done(device.pause())
    with carried(device) as data, pytest.raises(CommandError):
        Tiny().take_over(data)
    device.resume()
    return device


@pytest.mark.parametrize("refuse", [False, True])
@pytest.mark.parametrize("size", PIECES)
async def test_rest_of_a_saved_stream_follows_without_a_gap(size: int, refuse: bool) -> None:
    """S3.12: STOP_COPY, from the first byte to behind the last one."""
    device = Everything()
    used(device)
    await stands(device, *TO_SAVE)
    whole, at = b"", 0
    while piece := migration(device).read(size):
        whole, at = whole + piece, at + 1
        if at < 9:
            left = migration(device).left()
            device = await replaced(device, refuse)
            assert abs(migration(device).left() - left) < 1000
    device = await replaced(device, refuse)
    assert (migration(device).read(9), migration(device).left()) == (b"", 0)
    target = Everything()
    await load(target, whole)
    await go(device, S.STOP_COPY, S.STOP)
    device.migration_state = S.STOP
    assert target.snapshot() == device.snapshot()
    assert target.config.image == device.config.image
    device.close()
    target.close()


@pytest.mark.parametrize("refuse", [False, True])
@pytest.mark.parametrize("rounds", [0, 1, 3, 9])
async def test_what_goes_ahead_goes_on_ahead(rounds: int, refuse: bool) -> None:
    """S3.11-S3.13: PRE_COPY and PRE_COPY_P2P; what was sent counts as changed, never as new again."""
    device = Streamed()
    device.pixels[:] = bytes(range(256)) * (len(device.pixels) // 256)
    await stands(device, S.RUNNING, S.PRE_COPY)
    stream, initial = b"", 1 << 30
    for _ in range(rounds):
        stream += migration(device).read(400_000)
        device = await replaced(device, refuse)
        assert migration(device).precopy()[0] <= initial
        initial = migration(device).precopy()[0]
    device.pixels[7] ^= 1
    await stands(device, S.PRE_COPY, S.PRE_COPY_P2P)
    device = await replaced(device, refuse)
    stream += migration(device).read(100)
    await stands(device, S.PRE_COPY_P2P, S.STOP_COPY)
    stream += migration(device).read(100)
    device = await replaced(device, refuse)
    target = Streamed()
    await load(target, stream + read_all(device))
    assert bytes(target.pixels) == bytes(device.pixels)
    device.close()
    target.close()


@pytest.mark.parametrize("refuse", [False, True])
@pytest.mark.parametrize("size", PIECES)
async def test_loading_goes_on_where_it_was(size: int, refuse: bool) -> None:
    """S3.14: RESUMING, whatever of a section has been written."""
    source = Everything()
    used(source)
    source.alarm.start(after=100)
    await stands(source, *TO_SAVE)
    stream = read_all(source)
    device: PciDevice = Everything()
    await stands(device, *TO_LOAD)
    for at in range(0, len(stream), size):
        feed(device, stream[at : at + size])
        if at // size < 20 or len(stream) - at < 20 * size:
            device = await replaced(device, refuse)
    await go(device, S.RESUMING, S.STOP)
    assert device.snapshot() == source.snapshot()
    assert device.config.image == source.config.image
    source.close()
    device.close()


async def test_stream_that_was_refused_stays_refused_for_the_same_reason() -> None:
    """S3.15."""
    device: PciDevice = Tiny()
    await stands(device, *TO_LOAD)
    with pytest.raises(CommandError) as before:
        feed(device, b"nonsense" * 9)
    device = await replaced(device, refuse=False)
    for states in ((), (S.RESUMING, S.STOP)):
        with pytest.raises(CommandError) as after:
            await go(device, *states) if states else feed(device, b"x")
        assert (after.value.errno, after.value.message) == (before.value.errno, before.value.message)
    device.close()


async def test_stream_that_the_new_one_would_not_load_refuses_the_handover() -> None:
    """Its sections are looked at once more by the code that is to load them."""
    source, device, other = Streamed(), Tiny(), Tiny()
    await stands(device, *TO_LOAD)
    await done(device.pause())
    with carried(device) as data:
        (loading,) = data["migration"]["loading"]
        loading["sections"] = [["state", 1, b"m\0\0\0\0"]]
        with pytest.raises(CommandError, match=r"the stream that a client is writing: .*begins with the section state"):
            other.take_over(data)
    device.resume()
    for one in (source, device, other):
        one.close()


@pytest.mark.parametrize("state", [S.RUNNING, S.RUNNING_P2P, S.STOP, S.STOP_COPY, S.RESUMING, S.PRE_COPY])
async def test_pause_and_resume_keep_the_pace_of_every_state(state: S) -> None:
    """S3.9, S3.10: and so does the one that takes over."""
    ways = {
        S.RUNNING: (S.RUNNING,),
        S.RUNNING_P2P: TO_SAVE[:2],
        S.STOP: TO_SAVE[:3],
        S.STOP_COPY: TO_SAVE,
        S.RESUMING: TO_LOAD,
        S.PRE_COPY: (S.RUNNING, S.PRE_COPY),
    }
    device: PciDevice = Streamed()
    await stands(device, *ways[state])
    word, pace = device.gate.word, device.activity.brake.on
    for _ in range(2):
        await done(device.pause())
        await done(device.pause(at_once=True))
        assert (device.gate.word & 0x100, device.activity.brake.on) == (0, True)
        device.resume()
        device.resume()
        assert (device.gate.word, device.activity.brake.on, device.migration_state) == (word, pace, state)
    device = await replaced(device, refuse=False)
    assert (device.gate.word & 0x100, device.activity.brake.on) == (word & 0x100, pace)
    assert device.migration_state is state
    device.close()


async def test_device_in_error_stays_in_error_until_it_is_reset() -> None:
    """S3.8."""
    device: PciDevice = Tiny()
    device.stop()
    device.migration_state = S.ERROR
    device = await replaced(device, refuse=False)
    assert (device.migration_state, device.gate.word & 0x100) == (S.ERROR, 0)
    device.reset(ResetReason.MESSAGE)
    assert (device.migration_state, device.gate.word & 0x100) == (S.RUNNING, 0x100)
    device.close()


async def test_reset_and_a_client_that_goes_while_it_is_paused_take_effect_afterwards() -> None:
    """A reset ends a migration; the device does not move before resume()."""
    device = Streamed()
    await stands(device, S.RUNNING, S.PRE_COPY)
    await done(device.pause())
    await go(device, S.PRE_COPY, S.RUNNING)
    device.migration_state = S.RUNNING
    assert device.gate.word & 0x100 == 0
    device.reset(ResetReason.MESSAGE)
    assert device.gate.word & 0x100 == 0
    device.resume()
    assert device.gate.word & 0x100
    with LocalClient(device) as client:
        client.enable()
    device.close()


async def test_testdev_that_is_loaded_through_a_handover_works() -> None:
    """The whole way: saved by one, carried while it is loaded, run by another."""
    source, device = load_class("testdev")(), load_class("testdev")()
    with LocalClient(source) as client:
        client.enable()
        client.write(0, 0x10, 0)
    await stands(source, *TO_SAVE)
    stream = read_all(source)
    await stands(device, *TO_LOAD)
    feed(device, stream[: len(stream) // 2], 1 << 16)
    device = await replaced(device, refuse=False)
    feed(device, stream[len(stream) // 2 :], 1 << 16)
    await stands(device, *START)
    await asyncio.sleep(0)
    with LocalClient(device) as client:
        assert client.read(0, 0x14) == 1
    source.close()
    device.close()
