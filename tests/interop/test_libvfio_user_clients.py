"""libvfio-user's sample clients move a device of their shape from one of our servers to another.

LIBVFIO_USER_SAMPLES names the folder of a client of migration's version 2, LIBVFIO_USER_SAMPLES_V1 that of the last one
of version 1 (before its #782). Such a client writes BAR1 while the state is read, sets an interrupt to come 10 s later,
starts `server` from its own folder, loads the state there, compares BAR1 and waits for that interrupt and for DMA.
"""

import asyncio
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.engines import CHOSEN
from tests.interop import destination
from tests.interop.cells import LABEL, LABEL_V1, LIBRARY, SERVER, cell
from tests.interop.conftest import ENGINE, PROGRAM, one_device
from tests.interop.sample_device import PAGE, PATTERN
from tests.interop.samples import SAMPLES, SAMPLES_V1, SINCE_832, version_1, version_2
from vfuserver.client import Client
from vfuserver.vfio import MigrationState

of_our_engine = pytest.mark.skipif(CHOSEN == LIBRARY, reason="of our own engine")
of_the_library = pytest.mark.skipif(CHOSEN != LIBRARY, reason="of the engine libvfio-user")
PEER = "libvfio-user's sample client"
with_version_2 = cell(SERVER, PEER, "session, INTx, DMA by messages, migration by version 2", LABEL)
with_version_1 = cell(SERVER, PEER, "session, INTx, DMA by messages, migration by version 1", LABEL_V1)

DEVICE = f"{Path(__file__).parent / 'sample_device.py'}:Sample"
MESSAGES = ("--quirk", "private-memory=messages")
APART = ("--quirk", "pre-copy=apart")
PADDED = ("--quirk", "mig-data-read=padded")
SECONDS = 40.0
"""For all of it: 1 s to the first interrupt, 10 s to the second."""
REGION, RUNNING, STOPPED = 9, 1, 0
"""Of version 1, and what its device_state says."""

LINES = (
    "client: get_device_region_info: region_info[0] offset 0 flags 0x3 size 8 cap_sz 0 #FDs 0",
    "client: get_device_region_info: region_info[1] offset 0 flags 0xf size 12288 cap_sz 48 #FDs 1",
    "client: get_region_vfio_caps: area 0 offset 0 size 4096",
    "client: get_region_vfio_caps: area 1 offset 0x2000 size 4096",
    "client: IRQ INTx: count=1 flags=0x3",
    "client: stopping fake guest thread",
    "client: setting device state to stop-and-copy",
    "client: starting destination server",
)


class Run:
    """One run of a client: what it and its destination said, and how both ended."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.code: int | None = None

    @property
    def text(self) -> str:
        """For an assertion that fails."""
        return "\n".join(self.said)


@asynccontextmanager
async def run(samples: str, source: str, *options: str) -> AsyncIterator[Run]:
    """A client on `source`, with a destination of these options. Inside: the client has ended, the destination not."""
    folder = Path(source).parent / "client's own"
    folder.mkdir()
    (folder / "client").symlink_to(Path(samples) / "client")
    words = shlex.join([sys.executable, destination.__file__, DEVICE, *MESSAGES, *options])
    (folder / "server").write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    (folder / "server").chmod(0o755)
    ours = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        folder / "client", source, stdin=ours, stdout=ours, stderr=asyncio.subprocess.STDOUT, start_new_session=True
    )
    assert process.stdin
    assert process.stdout
    done = Run()
    try:
        async with asyncio.timeout(SECONDS):
            async for line in process.stdout:
                done.said.append(line.decode().rstrip())
                if done.said[-1] == destination.SAID:
                    break
            yield done
            process.stdin.close()
            done.said += (await process.stdout.read()).decode().splitlines()
            done.code = await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def same_in_both(here: Client, there: Client) -> None:
    """BAR1 is what the client wrote last; BAR0 reads as the moment where the device stands, else as seconds since."""
    contents = [await client.region_read(1, 0, 3 * PAGE) for client in (here, there)]
    assert contents[0] == contents[1] != PATTERN * 3
    moment, elapsed = [int.from_bytes(await client.region_read(0, 0, 8), "little") for client in (here, there)]
    assert int(time.time()) - elapsed in (moment, moment + 1)
    assert 0 <= elapsed < SECONDS


@version_2
@of_our_engine
@with_version_2
async def test_the_client_of_version_2_moves_our_device(tmp_path: Path) -> None:
    """S2.14, S2.15, S3.5, S3.11, S3.14, S3.18: no BAR is sized and COMMAND never written; DMA is done by messages."""
    with one_device(tmp_path, *MESSAGES, *APART, *PADDED, device=DEVICE) as source:
        async with run(SAMPLES, source.path) as done:
            assert done.said.count(destination.SAID) == 1, done.text
            async with (
                await Client.connect(source.path) as here,
                await Client.connect(f"{source.path}_migrated") as there,
            ):
                assert await here.device_state() == MigrationState.STOP
                assert await there.device_state() == MigrationState.RUNNING
                await same_in_both(here, there)
        assert done.code == 0, done.text
    for line in ("client: devinfo: flags 0x3, num_regions 9, num_irqs 5", *LINES):
        assert line in done.said
    assert done.said.count("client: INTx triggered!") == 2
    assert "Traceback" not in done.text


@version_2
@of_our_engine
@pytest.mark.parametrize(
    ("options", "why"),
    [
        pytest.param(APART, "failed to read migration data.*Connection reset by peer", id="without mig-data-read"),
        pytest.param(PADDED, r"the stream is refused|iters == \*nr_iters", id="without pre-copy"),
    ],
)
async def test_the_client_of_version_2_needs_both_quirks(tmp_path: Path, options: tuple[str, ...], why: str) -> None:
    """It takes a short reply for an error, and loads only what STOP_COPY gave, in as many pieces as it expects."""
    with one_device(tmp_path, *MESSAGES, *options, device=DEVICE) as source:
        async with run(SAMPLES, source.path) as done:
            assert re.search(why, done.text), done.text
        assert done.code


@version_1
@of_our_engine
@with_version_1
@pytest.mark.parametrize("migration", ["v1", "both"])
async def test_the_client_of_version_1_moves_our_device(tmp_path: Path, migration: str) -> None:
    """S3.27, S3.28, S3.29: a segment while it runs, one when it has stopped, and command 14.

    It never looks at the destination's capabilities, so only the source must hide NDMA.
    """
    options = ("--migration", migration)
    with one_device(tmp_path, *MESSAGES, *options, "--hide-peer-to-peer", device=DEVICE) as source:
        async with run(SAMPLES_V1, source.path, *options) as done:
            assert done.said.count(destination.SAID) == 1, done.text
            async with (
                await Client.connect(source.path) as here,
                await Client.connect(f"{source.path}_migrated") as there,
            ):
                states = [await client.region_read(REGION, 0, 4) for client in (here, there)]
                assert [int.from_bytes(state, "little") for state in states] == [STOPPED, RUNNING]
                await same_in_both(here, there)
        assert done.code == 0, done.text
    for line in ("client: devinfo: flags 0x3, num_regions 10, num_irqs 5", "client: migration region", *LINES):
        assert line in done.said
    assert done.said.count("client: INTx triggered!") == 2
    assert "Traceback" not in done.text


@version_1
@of_our_engine
async def test_the_client_of_version_1_ends_at_the_capability_of_ndma(tmp_path: Path) -> None:
    """S3.27 has it wherever peer-to-peer is offered, and nothing that such a client says tells that it bears none but
    two: hence --hide-peer-to-peer."""
    with one_device(tmp_path, *MESSAGES, "--migration", "v1", device=DEVICE) as source:
        async with run(SAMPLES_V1, source.path) as done:
            assert "client: bad VFIO cap ID 0x6" in done.said
        assert done.code == 1


NO_12_KIB = "its #832: the library refuses regions whose size is no power of 2, and the sample's BAR1 has 12 KiB"
ISSUE_279 = (
    "its issue 279: the client waits for DMA messages for memory whose descriptor it gave; this engine copies to such "
    "memory, and sends messages over twin sockets alone; up to INTx all came out"
)
LIBRARY_V1 = os.environ.get("LIBVFIO_USER_SO_V1", "")
NO_LOGGING = (
    "before its #782 the library refuses to log dirty pages unless migration's version 1 was set up "
    "(lib/libvfio-user.c:1024 of 1569a37), and this engine offers version 2 alone; up to INTx's set-up all came out"
)
SILENCE = 4.0
"""Seconds: the client's interrupt comes after 1 s."""


def refusal(folder: Path) -> str:
    """Why a server refuses the device at its start; nothing if it serves it."""
    words = [PROGRAM, "serve", *ENGINE, DEVICE, "--socket", str(folder / "tried")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        ready = process.stdout.readline()
        process.terminate()
        return "" if ready else process.stderr.read()


async def ends_or_stands_still(samples: str, source: str) -> list[str]:
    """What a client says that does not come through: line by line, until it says nothing more."""
    words = ["stdbuf", "-oL", str(Path(samples) / "client"), source]
    ours = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, stdout=ours, stderr=asyncio.subprocess.STDOUT)
    assert process.stdout
    said: list[str] = []
    with contextlib.suppress(TimeoutError):
        while line := await asyncio.wait_for(process.stdout.readline(), SILENCE):
            said.append(line.decode().rstrip())
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    return said


@of_the_library
@version_2
@with_version_2
async def test_the_client_of_version_2_reaches_its_interrupt_on_the_library(tmp_path: Path) -> None:
    """Then it waits for DMA messages, which that engine does not send to it."""
    if SINCE_832.search(refusal(tmp_path)):
        pytest.xfail(NO_12_KIB)
    with one_device(tmp_path, device=DEVICE) as source:
        said = await ends_or_stands_still(SAMPLES, source.path)
    assert {*LINES[:4], "client: IRQ INTx: count=1 flags=0x1"} <= {*said}
    assert said[-1] == "client: INTx triggered!"
    pytest.xfail(ISSUE_279)


@of_the_library
@version_1
@pytest.mark.skipif(not LIBRARY_V1, reason="LIBVFIO_USER_SO_V1 does not name the library from before its #782")
@with_version_1
async def test_the_client_of_version_1_reaches_dirty_logging_on_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which the library of its day has only with migration."""
    monkeypatch.setenv("LIBVFIO_USER_SO", LIBRARY_V1)
    with one_device(tmp_path, "--migration", "none", device=DEVICE) as source:
        said = await ends_or_stands_still(SAMPLES_V1, source.path)
    assert said[-1] == "client: failed to start dirty page logging: Operation not supported"
    pytest.xfail(NO_LOGGING)
