"""A connection that belongs to the library goes to no other process: refused, and everything goes on."""

import errno

import pytest

from tests.engine.libvfio_user.conftest import Bench
from tests.engine.libvfio_user.test_devices import number
from vfuserver.device.loader import load
from vfuserver.engine import listen
from vfuserver.errors import CommandError
from vfuserver.vfio import PciRegion

EDU = 0x11E8_1234


async def test_server_cannot_stand_still_and_serves_every_device_on(bench: Bench) -> None:
    ours = bench.folder / "ours"
    bench.server.add(load("edu")(), listen(ours))
    clients = [await bench.client(path) for path in (ours, bench.add("edu"))]
    with pytest.raises(CommandError, match="connections belong to the library") as caught:
        await bench.server.pause(1)
    assert caught.value.errno == errno.ENOTSUP
    for client in clients:
        assert await number(client, PciRegion.CONFIG, 0) == EDU


async def test_device_cannot_be_kept_for_a_supervisor(bench: Bench) -> None:
    client = await bench.client(bench.add("edu"))
    with pytest.raises(CommandError, match="connections belong to the library") as caught:
        bench.server.served[0].kept()
    assert caught.value.errno == errno.ENOTSUP
    assert await number(client, PciRegion.CONFIG, 0) == EDU
