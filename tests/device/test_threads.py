"""DMA from another thread against what ends it in the loop's thread: COMMAND, power, reset, UNMAP.

One loop's thread orders all commands of a device, so configuration writes, resets and BAR accesses never meet and need
no lock, and no lock of ours is held while a model's hook runs. What can run beside them is a copy: the core asks for
bus mastering and copies under the space's lock, which UNMAP, and whatever ends bus mastering, takes for itself.
"""

import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from vfuserver import Bar, DmaError, PciDevice, PciExpress, PciIdentity, PowerManagement, ResetReason
from vfuserver.testing.local_client import LocalClient

IOVA, SMALL, LARGE = 0x10000, 64, 4 << 20
"""LARGE is beyond what the core copies with the interpreter's lock held."""


class Busy(PciDevice):
    """Everything that a guest can end DMA by."""

    identity = PciIdentity(0x1234, 0x0004)
    capabilities = (PowerManagement(no_soft_reset=True), PciExpress(flr=True))
    registers = Bar(0, size=4096)
    reset_me = registers.wo(0)

    @reset_me.on_write
    def reset_from_a_hook(self, _value: int) -> None:
        """A hook may do what a command does: nothing is locked around it."""
        self.reset(ResetReason.MESSAGE)


class Writer(threading.Thread):
    """Writes ever new bytes to guest memory until it is told to stop; counts what went through and what did not."""

    def __init__(self, device: PciDevice, length: int) -> None:
        super().__init__()
        self.device, self.length = device, length
        self.stored = self.refused = 0
        self.stopping = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                try:
                    self.device.dma.write_now(IOVA, bytes([(self.stored + 1) & 0xFF]) * self.length)
                    self.stored += 1
                except DmaError:
                    self.refused += 1
        except BaseException as error:
            self.failure = error

    def until(self, counter: str) -> None:
        """Returns when one more write has gone through (stored), or was refused."""
        before = getattr(self, counter)
        while getattr(self, counter) < before + 2:
            assert self.is_alive(), self.failure


@pytest.fixture
def device() -> Iterator[Busy]:
    made = Busy()
    yield made
    made.close()


@pytest.fixture
def client(device: Busy) -> Iterator[LocalClient]:
    with LocalClient(device) as attached:
        attached.enable()
        yield attached


@pytest.fixture
def writer(device: Busy, client: LocalClient, request: pytest.FixtureRequest) -> Iterator[Writer]:
    thread = Writer(device, request.param)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)  # seconds: many more ways to fall between two steps
    yield thread
    sys.setswitchinterval(interval)
    thread.stopping.set()
    thread.join()
    assert thread.failure is None


def by_power(device: PciDevice, state: int) -> None:
    power = device.config.find(PowerManagement)
    assert power is not None
    device.config.write(power.start + 4, 1, state)


def by_flr(device: PciDevice) -> None:
    express = device.config.find(PciExpress)
    assert express is not None
    device.config.write(express.start + 9, 1, 0x80)


ENDS: dict[str, Callable[[Busy, LocalClient], object]] = {
    "COMMAND": lambda device, client: client.enable(3),
    "D3hot": lambda device, client: by_power(device, 3),
    "FLR": lambda device, client: by_flr(device),
    "reset": lambda device, client: device.reset(ResetReason.MESSAGE),
    "reset in a hook": lambda device, client: client.write(0, 0, 1),
    "stop": lambda device, client: device.stop(),
}


@pytest.mark.parametrize("writer", [SMALL, LARGE], indirect=True)
@pytest.mark.parametrize("end", ENDS)
def test_no_byte_moves_after_what_ended_dma_has_returned(
    device: Busy, client: LocalClient, writer: Writer, end: str
) -> None:
    """S2.33, S2.15, S0.6: two hundred times, with a thread that does not stop trying; and what it wrote is whole."""
    ram = client.memory.add(IOVA, LARGE)
    writer.start()
    for _ in range(200):
        writer.until("stored")
        ENDS[end](device, client)
        after = ram[: writer.length]
        writer.until("refused")
        assert ram[: writer.length] == after
        assert after == after[:1] * writer.length
        device.run()
        by_power(device, 0)
        client.enable()


@pytest.mark.parametrize("writer", [SMALL, LARGE], indirect=True)
def test_no_byte_moves_after_unmap_has_returned(device: Busy, client: LocalClient, writer: Writer) -> None:
    """S2.33, S1.9: UNMAP waits for copies under way, however large, and its reply is a promise."""
    writer.start()
    for _ in range(10):
        ram = client.memory.add(IOVA, LARGE)
        writer.until("stored")
        client.memory.remove(IOVA, LARGE)
        after = ram[:]
        writer.until("refused")
        assert ram[:] == after
        assert set(after[:SMALL]) == {after[0]}


@pytest.mark.parametrize("writer", [LARGE], indirect=True)
def test_everything_at_once_ends_in_order(device: Busy, client: LocalClient, writer: Writer) -> None:
    """S2.33: COMMAND, power, resets, maps and region accesses against large copies; nothing hangs or is torn."""
    writer.start()
    for round_ in range(10):
        ram = client.memory.add(IOVA, LARGE)
        for end in ENDS.values():
            client.enable()
            end(device, client)
            device.run()
            by_power(device, 0)
        client.enable()
        assert client.read(0, 4) == 0
        writer.until("stored")
        client.memory.remove(IOVA, LARGE)
        assert len(set(ram[:])) == 1, round_
