"""A client in a process of its own that cuts its memory while testdev works on it, on this engine (S1.12, issue 7).

The library maps the client's files; the device copies by the core, which turns the signal of a cut file into EFAULT.
"""

from tests.engine.libvfio_user.conftest import Bench
from tests.engine.test_truncation import cut_while_served, of_the_client
from vfuserver.client import Client


async def test_server_lives_through_a_client_that_cuts_its_memory(bench: Bench) -> None:
    """EFAULT in every round, some in the middle of a command; nothing of the client's memory is left in the server."""
    path = bench.add("testdev")
    await cut_while_served(path)
    async with await Client.connect(path) as other:
        await other.enable()
        assert of_the_client() == []
