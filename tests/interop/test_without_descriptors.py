"""A server reached through a relay that drops descriptors, as a tunnel to another machine would: all goes by messages.

What needs a descriptor to come is told apart: an interrupt stays pending in the device and reaches nobody.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.engine.test_dma_modes import BASE, DONE, FAILED, FROM_BUFFER, SIZE, TO_BUFFER, dma
from tests.engines import CHOSEN
from tests.interop.cells import LIBRARY, SERVER, cell, qemu_version
from tests.interop.conftest import Server, one_device
from tests.system.rig import EDU, TESTDEV, rig
from vfuserver.client import TWIN_PROPOSAL, Client, GuestMemory
from vfuserver.errors import PeerError
from vfuserver.guest.relay import relay
from vfuserver.vfio import MigrationState, RegionFlags

PEER = "a relay that drops descriptors"
OURS, QEMU = "our client", qemu_version
"""Who is behind it."""
REGISTERS, MOVED = "session, registers, mappable regions by messages", "migration"
DMA, INTERRUPTS = "DMA by messages", "interrupts stay pending"

RAISE, PBA, PENDING = 0x18, 0x800, 0x08
BAR0, BAR2, BAR4 = 0, 2, 4
INTERRUPT_STATUS = 0x0008
SLOW = re.compile(r"\S+: -device .*: Failed to mmap \S+ BAR 2\. Performance may be slow\n")
"""All that QEMU says of a mappable region that came without a descriptor."""
CONTENT = random.Random(SIZE).randbytes(1000)
ISSUE_279 = (
    "libvfio-user's issue 279: over one socket the library takes a command that crosses its DMA message for the reply, "
    "so this engine refuses DMA by messages (EFAULT) unless there is a twin socket, which is itself a descriptor"
)


@pytest.fixture
async def through_relay(tmp_path: Path) -> AsyncIterator[Client]:
    """A client of testdev that believes its descriptors arrive."""
    with one_device(tmp_path) as server:
        path = tmp_path / "relay"
        async with relay(path, Path(server.path)), await Client.connect(path) as client:
            await client.enable()
            yield client


async def at_rest(server: Server) -> None:
    """Its connections are gone; the relay ends them in this loop."""
    async with asyncio.timeout(4):
        while not server.at_rest():
            await asyncio.sleep(0.005)


@cell(SERVER, PEER, REGISTERS, OURS)
async def test_mappable_region_is_reached_by_messages(through_relay: Client) -> None:
    """Its info says that it can be mapped, and brings nothing to map; its bytes come all the same."""
    client = through_relay
    info = await client.region_info(BAR2)
    assert info.flags & RegionFlags.MMAP
    assert info.fds == []
    await client.region_write(BAR2, 0x90000, CONTENT)
    assert await client.region_read(BAR2, 0x90000, len(CONTENT)) == CONTENT
    assert await client.region_read(BAR0, 0, 4) == b"TEST"
    await client.reset()
    await client.enable()
    assert await client.region_read(BAR2, 0x90000, 4) == bytes(4)


@cell(SERVER, PEER, REGISTERS, OURS)
async def test_client_that_proposes_a_twin_socket_is_told_that_none_came(tmp_path: Path) -> None:
    """The server cannot know; the client must close then, and come again without the proposal."""
    with one_device(tmp_path) as server:
        async with relay(tmp_path / "relay", Path(server.path)):
            with pytest.raises(PeerError, match="the twin socket must be one of 0 descriptors"):
                await Client.connect(tmp_path / "relay", TWIN_PROPOSAL)
            await at_rest(server)
            async with await Client.connect(tmp_path / "relay") as client:
                assert await client.config_read(0) == 0x7E57_1234


@cell(SERVER, PEER, DMA, OURS)
async def test_memory_whose_descriptor_was_lost_is_reached_by_messages(through_relay: Client) -> None:
    """S0.14: DMA_MAP succeeds without what it came with."""
    client = through_relay
    seen: list[str] = []
    client.guest.on_access = lambda name, address, count: seen.append(name)
    memory = client.own(GuestMemory(SIZE))
    memory.write(3, CONTENT)
    await client.dma_map(BASE, memory)
    status = await dma(client, TO_BUFFER, BASE + 3, 0, len(CONTENT))
    if CHOSEN == LIBRARY:
        assert (status & FAILED, seen) == (FAILED, [])
        pytest.xfail(ISSUE_279)
    assert status == DONE
    assert await dma(client, FROM_BUFFER, 0, BASE + 5000, len(CONTENT)) == DONE
    assert memory.read(5000, len(CONTENT)) == CONTENT
    assert seen == ["DMA_READ", "DMA_WRITE"]
    await client.dma_unmap(BASE, SIZE)


@cell(SERVER, PEER, INTERRUPTS, OURS)
async def test_interrupt_whose_eventfd_was_lost_stays_pending(through_relay: Client) -> None:
    """S2.21, S2.22: SET_IRQS without descriptors takes eventfds away, which succeeds; the vector is pending then."""
    client = through_relay
    vectors = await client.arm_msix(8)
    await client.region_write(BAR0, RAISE, (3).to_bytes(4, "little"))
    await asyncio.sleep(0.1)
    assert [vector.take() for vector in vectors] == [0] * 8
    assert await client.region_read(BAR4, PBA, 1) == bytes([PENDING])


@cell(SERVER, PEER, MOVED, OURS)
async def test_device_moves_through_the_relay(through_relay: Client) -> None:
    """S3.5, S3.14: its state is bytes, and is the same when it comes back."""
    client = through_relay
    await client.region_write(BAR2, 0x80000, CONTENT)
    await client.set_device_state(MigrationState.STOP_COPY)
    state = b"".join([bytes(piece) async for piece in client.state_pieces()])
    await client.set_device_state(MigrationState.RUNNING)
    await client.reset()
    await client.set_device_state(MigrationState.RESUMING)
    await client.write_state(state)
    await client.set_device_state(MigrationState.RUNNING)
    assert await client.region_read(BAR2, 0x80000, len(CONTENT)) == CONTENT


@pytest.mark.guest
@cell(SERVER, PEER, REGISTERS, QEMU)
@cell(SERVER, PEER, INTERRUPTS, QEMU)
async def test_guest_reaches_registers_and_gets_no_interrupt() -> None:
    """field-notes C.11. QEMU's own functional test asks for the registers alone."""
    async with rig("q35-nofds", {EDU: {}, TESTDEV: {}}, spare=["uio_pci_generic"]) as running:
        assert await running.read(TESTDEV, BAR0, 0) == 0x5453_4554
        for at in (0x1000, 0x2000, 0x80000, 0xFFFFC):
            await running.write(TESTDEV, BAR2, at, at)
            assert await running.read(TESTDEV, BAR2, at) == at
        await running.guest.check("modprobe uio_pci_generic")
        await running.guest.check(f"pcitool bind {running.bdf(EDU)} uio_pci_generic")
        await running.guest.check("dd if=/dev/uio0 of=/tmp/count bs=4 count=1 2>/dev/null & sleep 0.2")
        await running.write(EDU, BAR0, 0x60, 1)
        assert await running.read(EDU, "config", 6, 2) & INTERRUPT_STATUS
        assert await running.guest.check("sleep 1; wc -c < /tmp/count") == "0"
        assert await running.interrupts("uio_pci_generic") == 0
        assert SLOW.fullmatch(running.guest.qemu_log)


@pytest.mark.guest
@cell(SERVER, PEER, DMA, QEMU)
async def test_guest_has_dma_by_messages() -> None:
    """The library's engine says at the device why not, and the guest sees bytes that did not move."""
    async with rig("q35-nofds", {EDU: {}, TESTDEV: {}}) as running:
        done = await running.guest.run(f"pcitool phys-dma {running.bdf(EDU)}")
        if CHOSEN == LIBRARY:
            assert "DMA differs" in done.text
            pytest.xfail(ISSUE_279)
        assert "verified 4096 bytes" in done.text
        assert "verified" in await running.pcitool("testdev-dma", TESTDEV)
        assert SLOW.fullmatch(running.guest.qemu_log)
