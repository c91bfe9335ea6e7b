"""The thread that a device may have for itself: where it cannot be had, and that none is left; on both loops."""

import asyncio
import resource
from pathlib import Path

import pytest

from vfuserver.device.loader import load
from vfuserver.engine import Server, find_engine, find_home, listen
from vfuserver.engine.device_thread import DeviceThread
from vfuserver.errors import UsageError
from vfuserver.session import SessionOptions

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


async def test_server_refuses_the_mode_without_a_thread(folder: Path) -> None:
    async with Server(SessionOptions(poll="dedicated")) as server:
        device, listener = load("testdev")(), listen(folder / "s")
        with pytest.raises(UsageError, match="needs a thread"):
            server.add(device, listener)
        device.close()
        listener.close()


def test_other_engine_refuses_the_mode() -> None:
    other = find_engine("vfuserver")
    with pytest.raises(UsageError, match="leave --engine or --poll out"):
        find_home(type(other)("libvfio-user", other.check, other.serve), "dedicated", "edu")


async def test_who_begins_a_thread_that_can_have_no_loop_is_told() -> None:
    if isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop):
        pytest.skip("a loop of asyncio that could not be made complains again when it is collected")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            DeviceThread("nobody", asyncio.get_running_loop())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_device_that_is_not_made_leaves_no_thread() -> None:
    home = DeviceThread("nobody", asyncio.get_running_loop())

    def fails() -> None:
        raise UsageError("no such option")

    with pytest.raises(UsageError, match="no such option"):
        home.call_patiently(fails)
    home.end()
    home.end()
