"""A client in a process of its own that cuts its memory while testdev works on it, on this engine (S1.12, issue 7).

The library maps the client's files; the device copies by the core, which turns the signal of a cut file into EFAULT.
"""

import asyncio
import os
import sys

from tests.engine.libvfio_user.conftest import Bench
from tests.engine.test_truncation import CLIENT, ROOT, of_the_client
from vfuserver.client import Client


async def test_server_lives_through_a_client_that_cuts_its_memory(bench: Bench) -> None:
    """EFAULT in every round, some in the middle of a command; nothing of the client's memory is left in the server."""
    path = bench.add("testdev")
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
    async with await Client.connect(path) as other:
        await other.enable()
        assert of_the_client() == []
