"""What is found out about the library, whichever of its versions it is (issue 7)."""

from pathlib import Path

import pytest

from tests.engine.libvfio_user.conftest import Bench, migrates
from tests.engine.libvfio_user.test_devices import number
from vfuserver.device.loader import load
from vfuserver.engine import Server, find_engine, listen
from vfuserver.engine.libvfio_user.api import library
from vfuserver.errors import UsageError
from vfuserver.session import SessionOptions


async def test_limit_of_dma_regions_is_the_library_s_where_it_takes_one(bench: Bench) -> None:
    """The form with a limit is newer than migration's version 2."""
    assert migrates() or not library().limits_regions
    client = await bench.client(bench.add("edu", SessionOptions(max_dma_maps=2)))
    assert await number(client, 7, 0) == 0x11E8_1234


async def test_library_with_version_1_only_is_refused_before_anything_listens(folder: Path) -> None:
    """What was made until then is gone: `nothing_leaks` counts it."""
    if migrates():
        pytest.skip("this library has migration's version 2")
    async with Server() as server:
        backend, listener = load("testdev")(), listen(folder / "s")
        with pytest.raises(UsageError, match="older than September 2023; --migration none serves it"):
            server.add(backend, listener, SessionOptions(), find_engine("libvfio-user").serve)
        assert server.served == ()
        listener.close()
        backend.close()
