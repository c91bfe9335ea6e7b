"""Our client and server with libvfio-user's sample programs, where LIBVFIO_USER_SAMPLES names their folder."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.conftest import PROGRAM, counted, eventually
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


@pytest.fixture
def sample(tmp_path: Path) -> Iterator[Path]:
    """The socket of a device of the shape that the sample client asserts."""
    path = tmp_path / "socket"
    device = f"{Path(__file__).parent / 'sample_device.py'}:Sample"
    command = [PROGRAM, "serve", device, "--socket", str(path), "--quirk", "private-memory=messages"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert server.stdout.readline().startswith("ready ")
        yield path
        server.terminate()
        _, log = server.communicate(timeout=10)
        assert server.returncode == 0, log
        assert "Traceback" not in log, log


def test_the_sample_client_gets_as_far_as_migration(sample: Path) -> None:
    """S2.14, S2.15: no BAR is sized and COMMAND never written; regions of 8 bytes and 12 KiB, two mappable areas.

    VERSION, a region that is none, infos, maps, INTx, the log of writes (S3.18) and DMA messages are behind it when it
    asks for migration.
    """
    done = subprocess.run([Path(SAMPLES) / "client", sample], capture_output=True, text=True, timeout=20)
    for line in (
        "devinfo: flags 0x3, num_regions 9, num_irqs 5",
        "region_info[0] offset 0 flags 0x3 size 8 cap_sz 0 #FDs 0",
        "region_info[1] offset 0 flags 0xf size 12288 cap_sz 48 #FDs 1",
        "area 0 offset 0 size 4096",
        "area 1 offset 0x2000 size 4096",
        "IRQ INTx: count=1 flags=0x3",
    ):
        assert f"{line}\n" in done.stdout
    assert "failed to set state" in done.stderr
    assert done.returncode == 1
