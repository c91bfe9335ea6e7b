"""Our client and tools move the device of libvfio-user's samples, where LIBVFIO_USER_SAMPLES names their folder.

`server` must be from before its #832: since then it refuses its own BAR1 and ends (field-notes F). It serves one client
and ends with it; it goes on only with a time in BAR0 that is not over, and begins its stream again after pre-copy.
"""

import asyncio
import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interop.cells import CLIENT, LABEL, cell
from tests.interop.conftest import PROGRAM
from tests.interop.middle import Middle
from tests.interop.samples import SAMPLES, SECONDS, Start, servers, version_2
from vfuserver.cli._migrating import Move
from vfuserver.cli._mirror import Mirror
from vfuserver.cli._moving import End, destination_at, going_on_after_failure, load, save, source_at
from vfuserver.cli._saved_file import NewFile, SavedFile
from vfuserver.client import Client
from vfuserver.errors import CommandError, VfuserverError
from vfuserver.session.commands.mig_data_read import MigDataRead
from vfuserver.session.commands.region_write import RegionWrite
from vfuserver.vfio import MigrationFlags, MigrationState

pytestmark = [
    version_2,
    cell(CLIENT, "libvfio-user's samples server, gpio-pci-idio-16, null", "save, load, migrate (version 2)", LABEL),
]

PAGE, BAR1, WHOLE = 4096, 3 * 4096, 3 * 4096 + 8
CONTENT = random.Random(BAR1).randbytes(PAGE)
"""Of BAR1's first page: reads of the sample's BAR1 give its beginning, whatever their offset."""
FUTURE = 3600
"""Seconds until the sample's interrupt: after the test."""

STATES = MigrationState


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """start("a", "server", ...) starts a sample program and returns its socket; it is killed at the end."""
    with servers(tmp_path) as start_one:
        yield lambda name, program="server", *words: start_one(SAMPLES, name, program, *words)


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line."""
    return subprocess.run([PROGRAM, *map(str, words)], capture_output=True, text=True, timeout=SECONDS, check=False)


async def fill(client: Client) -> bytes:
    """Something to recognise in both BARs; what the sample's whole state is then."""
    until = moment()
    await client.region_write(0, 0, until)
    await client.region_write(1, 0, CONTENT)
    return CONTENT + bytes(BAR1 - PAGE) + until


def moment() -> bytes:
    """A time that is not over when the test is."""
    return (int(time.time()) + FUTURE).to_bytes(8, "little")


async def content(client: Client) -> bytes:
    """Of BAR1."""
    return await client.region_read(1, 0, PAGE)


async def ends(stack: AsyncExitStack, source: Path, destination: Path) -> tuple[End, End]:
    """Both of them, the source filled."""
    here = await stack.enter_async_context(source_at(source, SECONDS))
    there = await stack.enter_async_context(destination_at(destination, SECONDS))
    await fill(here.client)
    return here, there


def nothing(_: int) -> None:
    """Nobody looks at the progress."""


async def test_the_client_s_calls_are_understood(start: Start) -> None:
    """S3.2, S3.3, S3.5, S3.11: states by their numbers, the stream in pieces of any size, errors where it must."""
    async with await Client.connect(start("a")) as client:
        whole = await fill(client)
        assert await client.migration_flags() == MigrationFlags.STOP_COPY | MigrationFlags.PRE_COPY
        assert await client.device_state() == STATES.RUNNING
        with pytest.raises(CommandError, match="EINVAL"):
            await client.data_size()
        with pytest.raises(CommandError, match="EINVAL"):
            await client.precopy_info()
        with pytest.raises(CommandError, match="EINVAL"):
            await client.set_device_state(STATES.RUNNING_P2P)
        with pytest.raises(CommandError, match="EINVAL"):
            await client.read_state(1)
        for state in (STATES.PRE_COPY, STATES.STOP_COPY):
            await client.set_device_state(state)
            assert await client.device_state() == state
        first = await client.read_state(1001)
        assert len(first) == 1001
        assert first + await client.read_state(1 << 30) == whole
        assert await client.read_state(1) == b""
        await client.set_device_state(STATES.RUNNING)


async def test_both_ends_limits_cut_the_stream(start: Start) -> None:
    """S3.11, S3.14: no piece is larger than either's max_data_xfer_size, and none is lost."""
    limits = {"max_msg_fds": 1, "max_data_xfer_size": 1000}
    async with await Client.connect(start("a"), limits) as here, await Client.connect(start("b")) as there:
        await fill_in_pieces(here)
        await here.set_device_state(STATES.STOP_COPY)
        await there.set_device_state(STATES.RESUMING)
        sizes = []
        async for piece in here.state_pieces():
            sizes.append(len(piece))
            await there.write_state(piece, 700)
        assert sizes == [1000] * 12 + [WHOLE - 12000]
        await there.set_device_state(STATES.RUNNING)
        assert (await content(there))[:500] == CONTENT[:500]


async def fill_in_pieces(client: Client) -> None:
    """As `fill`, for a client that may not send a page at once."""
    await client.region_write(0, 0, moment())
    await client.region_write(1, 0, CONTENT[:500])


async def test_a_device_moves_with_its_memory(start: Start) -> None:
    """S3.5, S3.18: stopped at one, running at the other, with dirty logging by the sample's server."""
    async with AsyncExitStack() as stack:
        here, there = await ends(stack, start("a"), start("b"))
        mirror = Mirror(here.client, there.client, 1 << 20)
        moved = await Move(here, there, rounds=0, mirror=mirror, advance=nothing).run()
        assert (moved.state_bytes, moved.rounds, moved.memory_logged) == (WHOLE, 0, True)
        assert moved.blackout > 0
        assert await content(there.client) == CONTENT
        assert (await here.client.device_state(), await there.client.device_state()) == (STATES.STOP, STATES.RUNNING)


async def test_a_device_moves_after_pre_copy_that_counts_for_nothing(start: Start) -> None:
    """S3.11, S3.12: what it gave in PRE_COPY comes again, with what was written meanwhile."""
    async with AsyncExitStack() as stack:
        here, there = [end.client for end in await ends(stack, start("a"), start("b"))]
        await here.set_device_state(STATES.PRE_COPY)
        assert await here.read_state(WHOLE) == CONTENT + bytes(BAR1 - PAGE)
        assert await here.read_state(1) == b""
        await here.region_write(1, 0, CONTENT[::-1])
        await here.set_device_state(STATES.STOP_COPY)
        whole = await here.read_state(WHOLE)
        await there.set_device_state(STATES.RESUMING)
        await there.write_state(whole)
        await there.set_device_state(STATES.RUNNING)
        assert await content(there) == CONTENT[::-1]
        assert await there.device_state() == STATES.RUNNING


async def test_a_refused_stream_leaves_the_source_running(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """S3.15: the sample's server begins again after pre-copy, which the other one takes for too many bytes."""
    async with AsyncExitStack() as stack:
        here, there = await ends(stack, start("a"), start("b"))
        with pytest.raises(VfuserverError, match=r"b refuses the state .*--no-pre-copy.*: EINVAL"):
            await Move(here, there, rounds=4, mirror=None, advance=nothing).run()
        assert [line.split("/")[-1] for line in caplog.messages] == ["b was reset", "a is RUNNING again"]
        assert await here.client.device_state() == await there.client.device_state() == STATES.RUNNING
        assert await content(here.client) == CONTENT


async def test_a_cancelled_save_leaves_the_source_running_and_no_file(start: Start, tmp_path: Path) -> None:
    """Ctrl-C cancels the task: at a piece of the stream, which is the sample's only one."""
    path = tmp_path / "state"
    async with source_at(start("a"), SECONDS) as here:
        await fill(here.client)

        async def work() -> None:
            task = asyncio.current_task()
            assert task is not None
            with NewFile(path, {}) as new:

                def write(piece: memoryview) -> None:
                    new.write(piece)
                    task.cancel()

                async with going_on_after_failure(here):
                    await save(here, write)

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(work())
        assert await here.client.device_state() == STATES.RUNNING
        assert not [*tmp_path.glob("*state*")]


async def test_save_show_and_load_from_the_command_line(start: Start, tmp_path: Path) -> None:
    """The file is the stream and what it is of; --stop because a fresh sample has no time to go on with."""
    path = tmp_path / "state"
    done = run("save", start("a"), path, "--stop", "--json")
    assert done.returncode == 0, done.stderr
    assert {key: json.loads(done.stdout)[key] for key in ("size", "state", "now")} == {
        "size": WHOLE,
        "state": "RUNNING",
        "now": "STOP",
    }
    shown = run("show", path).stdout
    assert f"{WHOLE} bytes of state" in shown
    assert ["BAR1", "12", "KiB"] in [line.split() for line in shown.splitlines()]
    done = run("load", start("b"), path, "--stop")
    assert done.returncode == 0, done.stderr
    assert f"loaded {WHOLE} bytes" in done.stdout


async def test_what_was_saved_is_loaded(start: Start, tmp_path: Path) -> None:
    """S3.14: byte by byte as it was."""
    path = tmp_path / "state"
    async with source_at(start("a"), SECONDS) as here:
        whole = await fill(here.client)
        with NewFile(path, {"shape": here.shape, "state": here.state.name, "flags": []}) as new:
            await save(here, new.write)
            new.finish()
    saved = SavedFile.read(path)
    assert b"".join(saved.chunks()) == whole
    async with destination_at(start("b"), SECONDS) as there:
        there.must_be_like(saved.shape, "the saved one")
        await load(there, saved.chunks(), saved.state, nothing)
        assert await content(there.client) == CONTENT
        assert await there.client.device_state() == STATES.RUNNING


@contextmanager
def set_up(server: Path, **more: Any) -> Iterator[Middle]:
    """A way to a sample whose BARs are filled as `fill` does it."""
    first = [
        (RegionWrite.number, RegionWrite.request.pack(0, region, len(data)) + data)
        for region, data in ((0, moment()), (1, CONTENT))
    ]
    with Middle(server.with_suffix(".middle"), server, first, **more) as middle:
        yield middle


async def test_a_device_goes_on_after_save_and_after_load(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "state"
    with set_up(start("a")) as source:
        done = run("save", source.path, path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("; the device is RUNNING\n")
    done = run("load", start("b"), path, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["now"] == "RUNNING"


def test_migrate_prints_what_it_moved_and_the_blackout(start: Start) -> None:
    with set_up(start("a")) as source:
        done = run("migrate", source.path, start("b"), "--no-pre-copy")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.endswith(f"b: {WHOLE} bytes of state")
    assert re.fullmatch(r"blackout \d+\.\d ms", second)


def test_migrate_with_pre_copy_says_what_to_do_without_it(start: Start) -> None:
    """S3.15: the sample's stream does not continue, which the other sample takes for too many bytes."""
    with set_up(start("a")) as source:
        done = run("migrate", source.path, start("b"))
    assert (done.returncode, done.stdout) == (1, "")
    reset, runs, error = done.stderr.splitlines()
    assert reset.endswith("b was reset")
    assert runs.endswith(f"{source.path.name} is RUNNING again")
    assert "--no-pre-copy" in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_while_the_state_is_read_lets_the_device_go_on(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    """The reply to MIG_DATA_READ waits until the command line has done something about the signal."""
    path, running = tmp_path / "state", list[subprocess.Popen[str]]()

    def interrupt() -> None:
        running[0].send_signal(number)

    with set_up(start("a"), hold=MigDataRead.number, held=interrupt) as source:
        words = [PROGRAM, "save", str(source.path), str(path)]
        running.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        out, err = running[0].communicate(timeout=SECONDS)
    assert (running[0].returncode, out) == (130, "")
    assert err.strip() == f"{source.path} is RUNNING again"
    assert not [*tmp_path.glob("*state*")]


def test_a_full_disk_lets_the_device_go_on(start: Start, tmp_path: Path) -> None:
    """A limit on the size of files fails as a full disk does."""
    path = tmp_path / "state"
    with set_up(start("a")) as source:
        words = ["prlimit", "--fsize=4096", PROGRAM, "save", str(source.path), str(path)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"{source.path} is RUNNING again",
        f"vfuserver: error: {path}: File too large",
    ]
    assert not [*tmp_path.glob("*state*")]


def test_a_file_of_another_device_is_refused_with_what_differs(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "state"
    assert run("save", start("a"), path, "--stop").returncode == 0
    done = run("load", start("gpio", "gpio-pci-idio-16"), path)
    assert done.returncode == 1
    for phrase in (
        "vendor is 494f, must be dead",
        "BAR1 is absent, must be 12 KiB",
        "BAR2 is 256 bytes, must be absent",
    ):
        assert phrase in done.stderr


def test_its_server_without_migration_is_told_apart(start: Start, tmp_path: Path) -> None:
    done = run("save", start("gpio", "gpio-pci-idio-16", "-M"), tmp_path / "state")
    assert done.returncode == 1
    assert "this server does not migrate its device" in done.stderr
    assert not (tmp_path / "state").exists()


def test_migrate_to_another_device_changes_nothing(start: Start) -> None:
    """The difference is found before any state changes."""
    done = run("migrate", start("a"), start("gpio", "gpio-pci-idio-16"))
    assert done.returncode == 1
    assert "is another device than" in done.stderr
    assert "vendor is 494f, must be dead" in done.stderr
    assert "again" not in done.stderr
