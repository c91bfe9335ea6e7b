"""`save` and `migrate` where they cannot work, and memory that is carried over while a device writes it."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.cli.conftest import Run
from tests.session.device import LittleDevice
from vfuserver.cli._mirror import Mirror
from vfuserver.cli._moving import source_at
from vfuserver.client import Client
from vfuserver.device.loader import load
from vfuserver.engine import Server, listen
from vfuserver.errors import VfuserverError

SIZE, PAGE = 4 << 20, 4096
FILL, BUSY, DONE = 4, 1, 2
SECONDS = 5.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for a socket's path."""
    with TemporaryDirectory(prefix="vfu-") as name:
        yield Path(name)


@pytest.fixture
async def testdevs(folder: Path) -> AsyncIterator[tuple[Client, Client]]:
    """Clients of two testdevs."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server())
        clients = []
        for name in ("here", "there"):
            server.add(load("testdev")(), listen(folder / name))
            clients.append(await stack.enter_async_context(await Client.connect(folder / name)))
            await clients[-1].enable()
        yield clients[0], clients[1]


async def fill(client: Client, iova: int, length: int, pattern: int) -> None:
    """Has testdev write a byte by DMA."""
    await client.region_write(0, 0x04, bytes([pattern]))
    registers = bytes(8) + iova.to_bytes(8, "little") + length.to_bytes(4, "little")
    for at in range(0, len(registers), 4):
        await client.region_write(0, 0x20 + at, registers[at : at + 4])
    await client.region_write(0, 0x34, FILL.to_bytes(4, "little"))
    while (status := int.from_bytes(await client.region_read(0, 0x38, 4), "little")) == BUSY:
        await asyncio.sleep(0)
    assert status == DONE


async def test_memory_is_carried_over_in_rounds(testdevs: tuple[Client, Client]) -> None:
    """S3.19: the first round carries what was ever written, the others what was written since."""
    here, there = testdevs
    mirror = Mirror(here, there, SIZE)
    await mirror.map()
    assert mirror.logs
    mirror.here.write(SIZE - 100, b"the guest's own")
    await fill(here, 3 * PAGE, 1, 1)
    assert await mirror.carry() == 2 * PAGE
    random.seed(SIZE)
    for pattern in range(2, 8):
        writes = [(random.randrange(SIZE - 40000), random.randrange(1, 40000)) for _ in range(3)]
        for at, length in writes:
            await fill(here, at, length, pattern)
        touched = {page for at, length in writes for page in range(at // PAGE, (at + length - 1) // PAGE + 1)}
        assert await mirror.carry() == len(touched) * PAGE
        assert mirror.there.read(0, SIZE) == mirror.here.read(0, SIZE)
    assert await mirror.carry() == 0


async def test_memory_that_nobody_logs_is_carried_whole(testdevs: tuple[Client, Client]) -> None:
    """S3.19: a server that refuses to log, here because it logs already, has every page carried again."""
    here, there = testdevs
    mirror = Mirror(here, there, SIZE)
    await here.dma_logging_start()
    await mirror.map()
    assert not mirror.logs
    await fill(here, PAGE, 2 * PAGE, 0x55)
    assert [await mirror.carry() for _ in range(2)] == [2 * PAGE, 2 * PAGE]
    assert mirror.there.read(0, SIZE) == bytes(PAGE) + b"\x55" * 2 * PAGE + bytes(SIZE - 3 * PAGE)


async def test_a_server_without_migration_is_said_so(folder: Path) -> None:
    """S3.2: it answers ENOTTY, others EINVAL."""
    async with Server() as server:
        server.add(LittleDevice(), listen(folder / "little"))
        with pytest.raises(VfuserverError, match=r"little: this server does not migrate its device \(ENOTTY"):
            async with source_at(folder / "little", SECONDS):
                pytest.fail("it cannot be a source")


@pytest.mark.parametrize("words", [("save", "nowhere", "state"), ("migrate", "nowhere", "other")])
def test_a_server_that_is_not_there_exits_1(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 1
    assert done.stderr == "vfuserver: error: cannot connect to nowhere: No such file or directory\n"


def test_migrate_to_itself_is_asked_for_wrongly(run: Run) -> None:
    done = run("migrate", "a.sock", "./a.sock")
    assert done.returncode == 2
    assert "must be two servers" in done.stderr


@pytest.mark.parametrize(
    ("text", "fine"), [("4096", True), ("64M", True), ("0x1000", True), ("much", False), ("-1", False)]
)
def test_sizes_have_units(run: Run, text: str, fine: bool) -> None:
    done = run("migrate", "a", "b", "--memory", text)
    assert ("must be a number of bytes" in done.stderr) != fine
    assert done.returncode == (1 if fine else 2)
