"""edu, as QEMU's docs/specs/edu says."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from vfuserver import CommandError, load
from vfuserver.testing.local_client import LocalClient
from vfuserver.vfio import PciIrq

INTX, MSI = PciIrq.INTX, PciIrq.MSI
LIVENESS, FACTORIAL, STATUS, IRQ_STATUS, RAISE, ACKNOWLEDGE = 0x04, 0x08, 0x20, 0x24, 0x60, 0x64
SOURCE, DESTINATION, COUNT, COMMAND, BUFFER = 0x80, 0x88, 0x90, 0x98, 0x40000


@pytest.fixture
def edu() -> Iterator[Any]:
    made = load("edu")()
    yield made
    made.close()


@pytest.fixture
def client(edu: Any) -> Iterator[LocalClient]:
    with LocalClient(edu) as attached:
        attached.enable()
        yield attached


def dma(client: LocalClient, source: int, destination: int, count: int, command: int) -> None:
    for offset, value in ((SOURCE, source), (DESTINATION, destination), (COUNT, count), (COMMAND, command)):
        client.write(0, offset, value, 8)


async def until_idle(client: LocalClient) -> None:
    async with asyncio.timeout(5):
        while client.read(0, STATUS) & 1 or client.read(0, COMMAND) & 1:
            await asyncio.sleep(0)


def test_identification_and_liveness(client: LocalClient) -> None:
    assert client.read(0, 0) == 0x0100_00ED
    client.write(0, LIVENESS, 0x1234_5678)
    assert client.read(0, LIVENESS) == 0xEDCB_A987


@pytest.mark.parametrize("offset", [0x00, 0x04, 0x08, 0x20, 0x24, 0x60, 0x64])
@pytest.mark.parametrize("width", [1, 2])
def test_registers_below_0x80_take_four_bytes_at_a_time(client: LocalClient, offset: int, width: int) -> None:
    with pytest.raises(CommandError):
        client.read(0, offset, width)


@pytest.mark.parametrize(
    ("number", "result"), [(0, 1), (1, 1), (10, 3628800), (13, 1932053504), (40, 0), (2**32 - 1, 0)]
)
async def test_factorial_is_computed_in_the_background(client: LocalClient, number: int, result: int) -> None:
    client.write(0, FACTORIAL, number)
    assert client.read(0, STATUS) & 1
    await until_idle(client)
    assert client.read(0, FACTORIAL) == result


async def test_number_that_comes_too_early_is_dropped(client: LocalClient) -> None:
    client.write(0, FACTORIAL, 5)
    client.write(0, FACTORIAL, 6)
    await until_idle(client)
    assert client.read(0, FACTORIAL) == 120


async def test_factorial_interrupts_when_asked(client: LocalClient) -> None:
    client.arm(MSI)
    client.write(0, STATUS, 0x80)
    client.write(0, FACTORIAL, 3)
    await until_idle(client)
    assert (client.taken(MSI), client.read(0, IRQ_STATUS), client.read(0, STATUS)) == (1, 1, 0x80)


def test_raised_interrupt_is_a_level_until_acknowledged(client: LocalClient, edu: Any) -> None:
    client.arm(INTX)
    client.write(0, RAISE, 0x12)
    client.write(0, ACKNOWLEDGE, 0x10)
    assert (client.taken(INTX), client.read(0, IRQ_STATUS), edu.intx.asserted) == (1, 0x02, True)
    client.write(0, ACKNOWLEDGE, 0x02)
    assert (client.read(0, IRQ_STATUS), edu.intx.asserted) == (0, False)


def test_raised_interrupt_goes_to_msi_when_armed(client: LocalClient, edu: Any) -> None:
    client.arm(MSI)
    client.write(0, RAISE, 1)
    assert (client.taken(MSI), edu.intx.asserted) == (1, False)


async def test_dma_round_trip_through_the_buffer(client: LocalClient) -> None:
    client.arm(MSI)
    ram = client.memory.add(0x10_0000, 0x2000)
    ram[0:100] = bytes(range(100))
    dma(client, 0x10_0000, BUFFER + 16, 100, 1)
    assert client.read(0, COMMAND) & 1
    await until_idle(client)
    dma(client, BUFFER + 16, 0x10_1000, 100, 7)
    await until_idle(client)
    assert ram[0x1000:0x1064] == bytes(range(100))
    assert (client.taken(MSI), client.read(0, IRQ_STATUS), client.read(0, COMMAND, 8)) == (1, 0x100, 6)


async def test_dma_addresses_are_masked_to_28_bits(client: LocalClient, edu: Any) -> None:
    ram = client.memory.add(0x10_0000, 0x1000)
    ram[0:4] = b"mask"
    dma(client, 0xF010_0000, BUFFER, 4, 1)
    await until_idle(client)
    assert edu.buffer[:4] == b"mask"


def test_dma_mask_is_an_option() -> None:
    device: Any = load("edu")(**{"dma-mask": "0xffffffff"})
    assert device.dma_mask == 0xFFFF_FFFF
    device.close()


@pytest.mark.parametrize("destination", [BUFFER - 1, BUFFER + 4096 - 3, 0, 2**64 - 1])
async def test_transfer_beyond_the_buffer_is_not_done(client: LocalClient, edu: Any, destination: int) -> None:
    client.memory.add(0x10_0000, 0x1000)[0:4] = b"oops"
    dma(client, 0x10_0000, destination, 4, 1)
    await until_idle(client)
    assert edu.buffer == bytes(4096)


async def test_engine_s_registers_are_held_while_it_runs(client: LocalClient) -> None:
    client.memory.add(0x10_0000, 0x1000)
    dma(client, 0x10_0000, BUFFER, 4, 1)
    client.write(0, SOURCE, 1, 8)
    assert client.read(0, SOURCE, 8) == 0x10_0000
    await until_idle(client)
    client.write(0, SOURCE, 1, 8)
    assert client.read(0, SOURCE, 8) == 1


def test_command_without_run_is_dropped(client: LocalClient) -> None:
    client.write(0, COMMAND, 6, 8)
    assert client.read(0, COMMAND, 8) == 0
