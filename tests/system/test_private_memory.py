"""A guest whose memory file QEMU has mapped privately: nothing written there would ever be seen (field-notes G)."""

import logging
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.system.rig import EDU, TESTDEV
from vfuserver.device.loader import load
from vfuserver.engine import Server, listen
from vfuserver.guest import Machine, Plug
from vfuserver.session import SessionOptions

pytestmark = pytest.mark.guest


@asynccontextmanager
async def devices_in(topology: str, quirks: Mapping[str, str]) -> AsyncIterator[tuple[Machine, str, str]]:
    """The guest, and where it has edu and testdev."""
    with tempfile.TemporaryDirectory(prefix="vfu-") as folder:
        async with Server() as server:
            plugs = [Plug(name, Path(folder) / name) for name in (EDU, TESTDEV)]
            for plug in plugs:
                server.add(load(plug.id)(name=plug.id), listen(Path(plug.socket_path)), SessionOptions(quirks=quirks))
            async with Machine(topology, plugs) as guest:
                found = [
                    (await guest.check(f"grep -l {ident} /sys/bus/pci/devices/*/device")).split("/")[-2]
                    for ident in ("0x11e8", "0x7e57")
                ]
                yield guest, found[0], found[1]


@pytest.mark.parametrize("how", ["auto", "compare"])
async def test_private_memory_is_reached_by_messages_and_said_loudly(
    caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Both ways of finding out: QEMU's mappings in /proc, and a transfer that differs from what a message says."""
    async with devices_in("q35-private", {"private-memory": how}) as (guest, edu, testdev):
        assert "verified" in await guest.check(f"pcitool testdev-dma {testdev}")
        assert "verified 4096 bytes" in (await guest.check(f"pcitool phys-dma {edu}")).lower()
    errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors
    assert all("share=on" in error for error in errors)
    assert ("differed" in errors[0]) == (how == "compare")


async def test_shared_memory_is_proven_by_a_transfer(caplog: pytest.LogCaptureFixture) -> None:
    """Without a look at QEMU's mappings; the layout of its messages is asked first, and logged (S0.14)."""
    caplog.set_level(logging.INFO)
    async with devices_in("q35-shared", {"private-memory": "compare"}) as (guest, edu, testdev):
        assert "verified" in await guest.check(f"pcitool testdev-dma {testdev}")
        assert "verified 4096 bytes" in (await guest.check(f"pcitool phys-dma {edu}")).lower()
    said = [record.message for record in caplog.records]
    assert any("a transfer proved it" in line for line in said)
    assert any("message DMA: the client has the layout" in line for line in said)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
