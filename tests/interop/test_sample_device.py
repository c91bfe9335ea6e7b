"""The device for libvfio-user's sample client, by a client of ours with the same limits: no peer is needed."""

import asyncio
import time

import pytest

from tests.client.conftest import connected
from tests.interop.sample_device import PAGE, PATTERN, Sample
from vfuserver.client import Client, GuestMemory
from vfuserver.session import SessionOptions
from vfuserver.vfio import MigrationState

LIKE_THE_SAMPLE_CLIENT = {"max_msg_fds": 32, "max_data_xfer_size": 1024}
HALF, PIECE, BEHIND = PAGE // 2, 1024, 16 * PAGE
SPEC = SessionOptions(quirks={"message-dma": "spec"})


async def alarm(client: Client, device: Sample) -> None:
    """Writes the present time to BAR0 and sees INTx and the end of what follows it."""
    intx = await client.arm_intx()
    await client.region_write(0, 0, int(time.time()).to_bytes(8, "little"))
    assert await intx.wait(4) == 1
    async with asyncio.timeout(4):
        while device.exchange.running:
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("base", [0, BEHIND], ids=["at first", "after the first half was unmapped"])
async def test_four_kib_go_to_the_first_two_pages_by_message_and_come_back(
    base: int, caplog: pytest.LogCaptureFixture
) -> None:
    """S0.14, S1.14: as many messages of the client's own limit as the sample client waits for, in its order."""
    seen: list[tuple[str, int, int]] = []
    device = Sample()
    async with connected(device, SPEC) as client:
        await client.negotiate(LIKE_THE_SAMPLE_CLIENT)
        client.guest.on_access = lambda *access: seen.append(access)
        with GuestMemory(2 * PAGE) as memory:
            for page in (0, PAGE):
                await client.dma_map(base + page, memory, offset=page, size=PAGE, share=False)
            await alarm(client, device)
            assert memory.read(0, 2 * PAGE) == bytes(HALF) + PATTERN + bytes(HALF)
    device.close()
    starts = range(base + HALF, base + HALF + PAGE, PIECE)
    assert seen == [(name, start, PIECE) for name in ("DMA_WRITE", "DMA_READ") for start in starts]
    assert "failed" not in caplog.text


async def test_four_kib_go_to_memory_that_was_given_with_a_descriptor_by_copy() -> None:
    """field-notes F: the sample client gives descriptors and waits for messages all the same."""
    seen: list[tuple[str, int, int]] = []
    device = Sample()
    async with connected(device, SPEC) as client:
        await client.negotiate(LIKE_THE_SAMPLE_CLIENT)
        client.guest.on_access = lambda *access: seen.append(access)
        with GuestMemory(2 * PAGE) as memory:
            await client.dma_map(0, memory)
            await alarm(client, device)
            assert memory.read(HALF, PAGE) == PATTERN
    device.close()
    assert seen == []


async def test_its_stream_has_as_many_pieces_as_the_sample_client_reads() -> None:
    """field-notes F: 12 in PRE_COPY, though its guest may not have written yet, and then 13, neither more nor fewer."""
    device = Sample()
    async with connected(device, SessionOptions(quirks={"pre-copy": "apart"})) as client:
        await client.negotiate()
        await client.region_write(0, 0, (int(time.time()) + 10).to_bytes(8, "little"))
        for state, pieces in ((MigrationState.PRE_COPY, 12), (MigrationState.STOP_COPY, 13)):
            await client.set_device_state(state)
            assert all([await client.read_state(PIECE) for _ in range(pieces)])
        assert await client.read_state(PIECE) == b""
    device.close()
