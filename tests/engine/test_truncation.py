"""A client in a process of its own that cuts its memory while testdev's DMA engine works on it (S1.12)."""

import asyncio
import os
import sys
from pathlib import Path

from tests.engine.conftest import Serve
from vfuserver import _core
from vfuserver.client import Client

ROUNDS = 50
CLIENT = f"""
import asyncio, errno, os, sys

from tests.engine.test_dma_modes import dma, end, start
from vfuserver.client import Client, GuestMemory

SIZE, BASE = 16 << 20, 16 << 20
COPY, FILL, DONE, FAILED = 1, 4, 2, 0x80000000

async def one_round(client, number):
    with GuestMemory(SIZE) as memory:
        await client.dma_map(BASE, memory)
        await start(client, (COPY, FILL)[number % 2], BASE, BASE + SIZE // 2, SIZE // 2)
        for _ in range(number % 7):
            await client.region_read(0, 0x38, 4)
        os.ftruncate(memory.fd, SIZE // 2 if number % 3 else 0)
        during = await end(client)
        assert during in (DONE, FAILED + errno.EFAULT), hex(during)
        after = await dma(client, FILL, 0, BASE + SIZE - 4096, 4096)
        assert after == FAILED + errno.EFAULT, hex(after)
        os.ftruncate(memory.fd, SIZE)
        await client.dma_map(BASE + SIZE, memory)
        assert await dma(client, FILL, 0, BASE + SIZE, 4096) == DONE, "the same file, mapped anew"
        await client.dma_unmap_all()
        return during != DONE

async def main():
    async with await Client.connect(sys.argv[1]) as client:
        await client.enable()
        print(sum([await one_round(client, number) for number in range({ROUNDS})]))

asyncio.run(main())
"""


ROOT = Path(__file__).parents[2]


def of_the_client() -> list[str]:
    """The server's descriptors and mappings of the client's memory."""
    links = (os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
    return [line for line in (*links, *Path("/proc/self/maps").read_text().splitlines()) if "guest-memory" in line]


async def cut_while_served(path: Path) -> None:
    """A client in another process cuts its memory while the device at `path` copies, and sees EFAULT in the middle."""
    client = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CLIENT, path),
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, err = await client.communicate()
    assert client.returncode == 0, err.decode()
    assert int(out) > 0, "no round met the cut in the middle"


async def test_server_lives_through_a_client_that_cuts_its_memory(serve: Serve) -> None:
    """EFAULT in every round, some in the middle of a command; nothing of the client's memory is left in the server."""
    path = serve("testdev")
    await cut_while_served(path)
    assert (of_the_client(), _core.sources()) == ([], [])
    async with await Client.connect(path) as other:
        await other.enable()
