"""How a server on this engine ends, and what a device that fails does not end (issue 7)."""

import asyncio
import errno
import signal
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.libvfio_user.conftest import Bench, migrates
from tests.engine.libvfio_user.test_devices import number
from tests.interop import raw_client as raw
from tests.interop.conftest import Server, eventually, one_device
from vfuserver import Bar, Intx, KiB, PciDevice, PciIdentity, ResetReason
from vfuserver.client import Client, DisconnectedError
from vfuserver.errors import CommandError
from vfuserver.session import SessionOptions
from vfuserver.vfio import Client as DeviceClient

SLOW = raw.ACCESS.pack(0x48, raw.BAR0, 4)
VERSION = struct.pack("=HHIIIHH", 1, 1, 23, 0, 0, 0, 0) + b"{}\0"


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    options = () if migrates() else ("--migration", "none")
    with one_device(folder, "--engine", "libvfio-user", *options) as running:
        yield running


def slow(client: raw.Client) -> None:
    """A command whose answer takes a second."""
    client.write(raw.CONFIG, 4, 7, 2)
    client.write(raw.BAR0, 0x44, 1_000_000)
    client.send(raw.REGION_READ, SLOW)


def closed(client: raw.Client) -> bool:
    """By its end, after whatever it had sent."""
    try:
        while client.socket.recv(1 << 16):
            pass
    except ConnectionResetError:  # it had not read all of ours
        return True
    return True


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT], ids=lambda end: end.name)
@pytest.mark.parametrize("doing", ["nothing", "is asked", "hears half a message", "hears no VERSION"])
def test_server_that_is_told_to_stop_ends_at_once(server: Server, end: signal.Signals, doing: str) -> None:
    """`Server` looks for an exit code of 0, the socket's file and a traceback."""
    with raw.Client(server.path, None if doing == "hears no VERSION" else raw.QEMU) as client:
        if doing == "is asked":
            slow(client)
        elif doing == "hears half a message":
            client.raw(client.message(raw.REGION_READ, SLOW)[:20])
        server.process.send_signal(end)
        assert server.process.wait(3) == 0
        assert closed(client)


@pytest.mark.parametrize("sent", [1, 15, 16, 20, 47])
def test_client_that_dies_inside_a_message_leaves_the_device_to_the_next(
    server: Server, sent: int, memory: int
) -> None:
    """With a descriptor on the way; also while a command of its waits for its answer."""
    for before in (None, slow):
        with raw.Client(server.path) as client:
            if before:
                before(client)
            client.raw(client.message(raw.DMA_MAP, bytes(32))[:sent], [memory])
        with raw.Client(server.path) as other:
            assert other.read(raw.CONFIG, 0) == 0x7E57_1234
        assert eventually(server.at_rest)


async def test_client_waits_while_another_negotiates_and_the_loop_does_not(bench: Bench) -> None:
    """One that says nothing is cut off by its deadline; the one behind it is served then."""
    path = bench.add("edu", SessionOptions(deadline=0.5))
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(path))
        await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiting = asyncio.ensure_future(Client.connect(path))
        turns = 0
        while not waiting.done():
            await asyncio.sleep(0.005)
            turns += 1
        async with await waiting as client:
            assert await number(client, 7, 0) == 0x11E8_1234
        assert loop.time() - began >= 0.3
        assert turns > 10


class Failing(PciDevice):
    """Fails wherever a model's author can."""

    identity = PciIdentity(0x1234, 0x567A)
    intx = Intx(pin="A")
    registers = Bar(0, size=4 * KiB)
    plain = registers.rw(0)
    failing = registers.rw(4)
    fails: frozenset[str] = frozenset()

    def attach(self, client: DeviceClient) -> None:
        """A client comes."""
        self._may_fail("attach")
        super().attach(client)

    def detach(self) -> None:
        """It goes."""
        super().detach()
        self._may_fail("detach")

    def reset(self, reason: ResetReason) -> None:
        """Of every kind."""
        super().reset(reason)
        self._may_fail("reset")

    def interrupts_ready(self, index: int, start: int, count: int) -> None:
        """Vectors were armed."""
        self._may_fail("interrupts_ready")
        super().interrupts_ready(index, start, count)

    @failing.on_write
    def _write(self, value: int) -> None:
        self._may_fail("write")

    def _may_fail(self, what: str) -> None:
        if what in self.fails:
            raise KeyError(f"a model's own bug in {what}")


async def all_that_may_fail(path: Path) -> list[int]:
    """The errors that a client gets."""
    errors = []
    try:
        async with await Client.connect(path) as client:
            await client.enable()
            for ask in (client.reset, client.arm_intx, lambda: client.region_write(0, 4, bytes(4))):
                try:
                    await ask()
                except CommandError as error:
                    errors.append(error.errno)
                await client.enable()
    except DisconnectedError:
        errors.append(errno.ECONNRESET)
    return errors


@pytest.mark.parametrize("what", ["attach", "detach", "reset", "interrupts_ready", "write"])
async def test_exception_of_a_model_is_logged_and_never_crosses_the_library(
    bench: Bench, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    device = Failing()
    path = bench.add(device)
    device.fails = frozenset({what})
    errors = await all_that_may_fail(path)
    assert errors == {"reset": [errno.EIO], "write": [errno.EIO], "attach": [errno.ECONNRESET]}.get(what, [])
    async with asyncio.timeout(3):
        while f"a model's own bug in {what}" not in caplog.text:
            await asyncio.sleep(0.01)
    device.fails = frozenset()
    async with await Client.connect(path) as client:
        await client.enable()
        await client.region_write(0, 0, b"well")
        assert await client.region_read(0, 0, 4) == b"well"
    caplog.clear()  # its records hold the exception, and that the device
