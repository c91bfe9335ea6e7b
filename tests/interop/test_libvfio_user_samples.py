"""Our client with the servers of libvfio-user's samples, where LIBVFIO_USER_SAMPLES names their folder."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import counted, eventually
from vfuserver.client import Client, DisconnectedError
from vfuserver.vfio import IoFdType

SAMPLES = os.environ.get("LIBVFIO_USER_SAMPLES", "")
pytestmark = pytest.mark.skipif(not SAMPLES, reason="LIBVFIO_USER_SAMPLES does not name libvfio-user's samples")


@pytest.fixture
def shadow_server(tmp_path: Path) -> Iterator[Path]:
    """The socket of shadow_ioeventfd_server; it ends with its client."""
    path = tmp_path / "socket"
    program = Path(SAMPLES) / "shadow_ioeventfd_server"
    with subprocess.Popen([program, path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert eventually(path.exists)
        yield path
        try:
            process.wait(5)
        finally:
            process.kill()


async def test_the_shadow_ioeventfd_of_its_server_is_read_and_rung(shadow_server: Path) -> None:
    """48 bytes, an eventfd and a file: the server takes the ring from the eventfd."""
    try:
        async with await Client.connect(shadow_server) as client:
            io_fds = await client.region_io_fds(0)
            (one,) = io_fds.sub_regions
            assert (one.type, one.offset, one.size, len(io_fds.fds)) == (IoFdType.SHADOW, 0, 4, 2)
            assert one.ring(0x11223344)
            assert os.pread(one.shadow_fd, 4, one.shadow_offset) == b"\x44\x33\x22\x11"
            async with asyncio.timeout(5):
                while counted(one.fd):
                    await asyncio.sleep(0.01)
    except DisconnectedError:
        pytest.skip("this shadow_ioeventfd_server was built without shadow-ioeventfd, and ends when a client comes")
