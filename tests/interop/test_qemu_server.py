"""Our client with QEMU's own server, where VFUSERVER_QEMU is a build that has it (--enable-vfio-user-server)."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.cells import CLIENT, cell, qemu_version
from tests.interop.conftest import eventually
from vfuserver.client import Client, GuestMemory
from vfuserver.guest import Qemu, find_qemu
from vfuserver.vfio import PciIrq

OBJECT = "x-vfio-user-server"
pytestmark = pytest.mark.guest  # it is no guest, but QEMU may be fetched for it


def objects(qemu: Qemu) -> str:
    """What `-object help` lists."""
    words = [*qemu.command, "-object", "help"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture
def edu(tmp_path: Path) -> Iterator[Path]:
    """The socket of a QEMU that serves its own edu."""
    qemu = find_qemu()
    if OBJECT not in objects(qemu).split():
        pytest.skip(f"this QEMU was built without {OBJECT}, as Debian's are: its -object help does not list it")
    path = tmp_path / "socket"
    words = [*qemu.command, "-nodefaults", "-display", "none", "-machine", "x-remote,vfio-user=on", "-device"]
    words += ["edu,id=edu", "-object", f"{OBJECT},id=server,type=unix,path={path},device=edu"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as process:
        try:
            assert eventually(path.exists, 20)
            yield path
        finally:
            process.kill()


@cell(CLIENT, f"QEMU's own {OBJECT}", "its edu: session, registers, DMA_MAP, MSI", qemu_version)
async def test_edu_of_qemu_is_driven_by_our_client(edu: Path) -> None:
    async with await Client.connect(edu) as client:
        assert await client.config_read(0) == 0x11E8_1234
        assert (await client.irq_info(PciIrq.MSI)).count == 1
        await client.enable()
        assert await client.region_read(0, 0, 4) == (0x0100_00ED).to_bytes(4, "little")
        await client.region_write(0, 4, b"\x01\0\0\0")
        assert await client.region_read(0, 4, 4) == b"\xfe\xff\xff\xff"
        with GuestMemory(1 << 20) as memory:
            await client.dma_map(0, memory)
            await client.arm_msi()
            await client.dma_unmap(0, memory.size)
