"""Devices saved, loaded and lost on this engine (S3.2, S3.11, S3.14, S3.23; issue 7)."""

import errno
from contextlib import suppress

import pytest

from tests.engine.libvfio_user.conftest import Bench, migrates
from tests.engine.libvfio_user.test_devices import BAR0, number, put
from vfuserver.client import Client
from vfuserver.errors import CommandError
from vfuserver.session import SessionOptions
from vfuserver.vfio import MigrationFlags, MigrationState

STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY = (
    MigrationState.STOP,
    MigrationState.RUNNING,
    MigrationState.STOP_COPY,
    MigrationState.RESUMING,
    MigrationState.PRE_COPY,
)
PIECE = 32 << 10


@pytest.fixture(autouse=True)
def version_2() -> None:
    if not migrates():
        pytest.skip("this library has migration's version 1 only")


async def saved(client: Client) -> bytes:
    await client.set_device_state(STOP_COPY)
    stream = b"".join([piece async for piece in client.state_pieces()])
    await client.set_device_state(STOP)
    return stream


async def load(client: Client, stream: bytes) -> None:
    await client.set_device_state(RESUMING)
    await client.write_state(stream, PIECE)
    await client.set_device_state(RUNNING)


async def value(client: Client) -> int:
    return await number(client, BAR0, 4)


@pytest.mark.parametrize("device", ["testdev", "edu", "gpio-idio-16"])
async def test_device_is_saved_and_loaded_elsewhere(bench: Bench, device: str) -> None:
    source = await bench.client(bench.add(device))
    target = await bench.client(bench.add(device))
    stream = await saved(source)
    await load(target, stream)
    assert await target.device_state() is RUNNING
    assert await saved(target) == stream


async def test_registers_come_through_and_pre_copy_is_offered(bench: Bench) -> None:
    source, target = await bench.client(bench.add("testdev")), await bench.client(bench.add("testdev"))
    assert await source.migration_flags() == MigrationFlags.STOP_COPY | MigrationFlags.PRE_COPY
    await put(source, BAR0, 4, 0xCAFE)
    await source.set_device_state(PRE_COPY)
    ahead = b"".join([piece async for piece in source.state_pieces()])
    await put(source, BAR0, 4, 0xBEEF)
    rest = await saved(source)
    await load(target, ahead + rest)
    assert await value(target) == 0xBEEF


async def test_stream_that_is_damaged_is_refused_and_a_reset_ends_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """S3.15, S3.6."""
    client = await bench.client(bench.add("testdev"))
    stream = bytearray(await saved(client))
    stream[-1] ^= 1
    await client.set_device_state(RESUMING)
    with suppress(CommandError):
        await client.write_state(stream, PIECE)
    with pytest.raises(CommandError):
        await client.set_device_state(STOP)
    await client.reset()
    assert await client.device_state() is RUNNING
    await client.enable()
    await put(client, BAR0, 4, 0xABCD)
    assert await value(client) == 0xABCD
    caplog.clear()  # its records hold the exception, and that the device


async def test_client_that_goes_while_it_loads_leaves_the_device_as_it_was(bench: Bench) -> None:
    path = bench.add("testdev")
    async with await Client.connect(path) as client:
        await client.enable()
        await put(client, BAR0, 4, 0x77)
        stream = await saved(client)
        await client.set_device_state(RESUMING)
        await client.write_state(stream[:1000])
    async with await Client.connect(path) as client:
        await load(client, stream)
        assert await value(client) == 0x77


async def test_client_that_goes_in_pre_copy_leaves_a_running_device(bench: Bench) -> None:
    path = bench.add("testdev")
    async with await Client.connect(path) as client:
        await client.enable()
        await client.set_device_state(PRE_COPY)
    async with await Client.connect(path) as client:
        assert await client.device_state() is RUNNING


async def test_reset_ends_what_is_being_saved(bench: Bench) -> None:
    """S3.6."""
    client = await bench.client(bench.add("testdev"))
    await client.set_device_state(PRE_COPY)
    await client.reset()
    assert await client.device_state() is RUNNING
    await client.enable()
    assert len(await saved(client)) > 1000


async def test_state_message_without_a_state_is_einval(bench: Bench) -> None:
    """The library would read beyond it."""
    client = await bench.client(bench.add("testdev"))
    with pytest.raises(CommandError) as refused:
        await client.channel.command(16, (8).to_bytes(4, "little") + (1 << 17 | 2).to_bytes(4, "little"))
    assert refused.value.errno == errno.EINVAL
    assert await client.device_state() is RUNNING


async def test_migration_none_offers_none(bench: Bench) -> None:
    client = await bench.client(bench.add("testdev", SessionOptions(migration="none")))
    with pytest.raises(CommandError):
        await client.migration_flags()
