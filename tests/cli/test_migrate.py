"""`save`, `load` and `migrate` between our own servers: a device that works meanwhile, and everything that goes wrong.

Whatever goes wrong: the source goes on as before, the destination runs as after a reset, and one line says why.
"""

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, SECONDS, Run, Serve
from tests.cli.moved import FRAMES, PAGE, PAGES, frames_at, memory_at
from tests.interop.middle import Middle
from vfuserver.cli._migrating import Move
from vfuserver.cli._mirror import Mirror
from vfuserver.cli._moving import Advance, End, destination_at, going_on_after_failure, load, save, source_at
from vfuserver.cli._saved_file import NewFile, SavedFile
from vfuserver.client import Client
from vfuserver.errors import VfuserverError
from vfuserver.session.command import Command
from vfuserver.session.commands.mig_data_read import MigDataRead
from vfuserver.session.commands.mig_data_write import MigDataWrite
from vfuserver.vfio import MigrationState

DEVICE = f"{Path(__file__).parent / 'moved.py'}:Moved"
RUNNING, STOP = MigrationState.RUNNING, MigrationState.STOP
MEMORY = 16 << 20
PIECE = 1 << 20
REFUSED = "refuses the state (its server's log may say why"


@pytest.fixture
def two(serve: Serve, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Two servers of the device, by their sockets."""
    with serve(DEVICE, "--socket", "a.sock"), serve(DEVICE, "--socket", "b.sock"):
        yield tmp_path / "a.sock", tmp_path / "b.sock"


async def done(client: Client) -> int:
    """How often the device has written."""
    return int.from_bytes(await client.region_read(0, 0, 4), "little")


async def frames(client: Client) -> bytes:
    """The memory that goes ahead."""
    return b"".join([await client.region_read(2, at, PIECE) for at in range(0, FRAMES, PIECE)])


async def is_unharmed(path: Path) -> None:
    """The device there runs, can be used by the next client, and has in its memory what it says that it has done."""
    async with await Client.connect(path) as client:
        assert await client.device_state() is RUNNING
        await client.set_device_state(STOP)
        assert await frames(client) == frames_at(await done(client))
        await client.set_device_state(RUNNING)


@asynccontextmanager
async def ends(source: Path, destination: Path) -> AsyncIterator[tuple[End, End]]:
    """Both of them."""
    async with source_at(source, SECONDS) as here, destination_at(destination, SECONDS) as there:
        yield here, there


def slowly(_: int) -> None:
    """The device does something between two pieces of its state."""
    time.sleep(0.005)


async def test_a_device_that_works_moves_in_rounds_with_its_memory(two: tuple[Path, Path]) -> None:
    """S3.12, S3.13, S3.19: nothing that it wrote is lost, in what goes ahead, in memory, in registers."""
    async with ends(*two) as (here, there):
        mirror = Mirror(here.client, there.client, MEMORY)
        moved = await Move(here, there, rounds=4, mirror=mirror, advance=slowly).run()
        assert moved.rounds == len(moved.per_round) == 4
        assert moved.memory_logged
        assert moved.per_round[0].state_bytes > FRAMES > moved.per_round[-1].state_bytes
        assert moved.state_bytes > sum(one.state_bytes for one in moved.per_round)
        assert moved.memory_bytes >= sum(one.memory_bytes for one in moved.per_round) > 0
        at = await done(here.client)
        assert (await here.client.device_state(), await there.client.device_state()) == (STOP, RUNNING)
        while await done(there.client) <= at:
            await asyncio.sleep(0.01)
        await there.client.set_device_state(STOP)
        now = await done(there.client)
        assert await frames(there.client) == frames_at(now)
        assert mirror.there.read(0, PAGES * PAGE) in (memory_at(now), memory_at(now + 1))


def test_migrate_prints_each_round_and_the_blackout(run: Run, two: tuple[Path, Path]) -> None:
    """S3.12, S3.26: what a person sees, and the same as data."""
    out = run("migrate", *two, "--memory", "16M", "--rounds", "3")
    assert (out.returncode, out.stderr) == (0, "")
    *rounds, moved, blackout = out.stdout.splitlines()
    for number, line in enumerate(rounds, 1):
        amount = r"\d+ bytes of state(, \d+ [KM]iB of memory)?"
        assert re.fullmatch(rf"round {number} of pre-copy: {amount} in \d+\.\d ms", line)
    assert len(rounds) == 3
    assert f": {FRAMES}" < rounds[0].partition("pre-copy")[2]
    assert re.search(rf"bytes of state, {len(rounds)} rounds of pre-copy, \d+ [KM]iB of memory$", moved)
    assert re.fullmatch(r"blackout \d+\.\d ms", blackout)
    assert run("load", two[0], saved_by(run, two[1])).returncode == 0
    again = run("migrate", *two, "--json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert (found["rounds"], found["memory_bytes"]) == (2, 0)
    assert [one["state_bytes"] > FRAMES for one in found["per_round"]] == [True, False]
    assert 0 < found["blackout"] < SECONDS


def saved_by(run: Run, server: Path) -> Path:
    """A file with the state of its device."""
    assert run("save", server, "saved.state", "--force").returncode == 0
    return Path("saved.state")


def test_progress_is_shown_to_whoever_looks(two: tuple[Path, Path]) -> None:
    """A bar, where stderr is a terminal."""
    ours, theirs = pty.openpty()
    words = [*COMMAND, "migrate", *map(str, two)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        out, _ = process.communicate(timeout=SECONDS)
    os.close(theirs)
    shown = read_all(ours)
    assert process.returncode == 0
    assert re.search(r"moving +\[#+-*\] +\d+%", shown)
    assert re.search(r"\[#+\] +100%", shown)
    assert "blackout" in out


def read_all(terminal: int) -> str:
    """What was written there until the other end closed."""
    data = b""
    try:
        while piece := os.read(terminal, 4096):
            data += piece
    except OSError:  # EIO: the other end is closed
        pass
    os.close(terminal)
    return data.decode()


# -- refused before anything is changed


def test_servers_that_do_not_migrate_are_said_so(run: Run, serve: Serve, two: tuple[Path, Path]) -> None:
    """S3.2, at either end."""
    with serve(DEVICE, "--socket", "c.sock", "--migration", "none"):
        for words in (("save", "c.sock", "x"), ("migrate", "c.sock", two[0]), ("migrate", two[0], "c.sock")):
            out = run(*words)
            assert out.returncode == 1
            assert out.stderr.startswith("vfuserver: error: c.sock: this server does not migrate its device (ENOTTY")
    assert not Path("x").exists()


async def test_another_device_is_refused_with_what_differs(run: Run, serve: Serve, two: tuple[Path, Path]) -> None:
    with serve("edu", "--socket", "c.sock"):
        assert run("save", "c.sock", "edu.state").returncode == 0
        for words in (("migrate", "c.sock", two[0]), ("migrate", two[0], "c.sock"), ("load", two[0], "edu.state")):
            out = await asyncio.to_thread(run, *words)
            assert out.returncode == 1
            assert "is another device than" in out.stderr
            for name in ("device is", "BAR2 is", "MSI is"):
                assert name in out.stderr
            assert len(out.stderr.splitlines()) == 1
        await is_unharmed(two[0])


async def test_a_device_with_other_options_refuses_the_state_and_is_reset(
    run: Run, serve: Serve, two: tuple[Path, Path], tmp_path: Path
) -> None:
    """S3.15: what cannot be seen from outside is found by the server; both go on."""
    with serve(DEVICE, "--socket", "c.sock", "--set", "level=2"):
        out = await asyncio.to_thread(run, "migrate", two[0], "c.sock")
        assert out.returncode == 1
        reset, again, error = out.stderr.splitlines()
        assert (reset, again) == ("c.sock was reset", f"{two[0]} is RUNNING again")
        assert f"c.sock {REFUSED}" in error
        assert "EINVAL" in error
        assert run("save", two[0], "a.state").returncode == 0
        out = run("load", "c.sock", "a.state")
        assert (out.returncode, out.stderr.splitlines()[0]) == (1, "c.sock was reset")
        await is_unharmed(two[0])
        await is_unharmed(tmp_path / "c.sock")


@pytest.mark.parametrize("kind", ["silent", "closes", "babbles", "file"])
def test_what_is_no_vfio_user_server_is_said_so(run: Run, tmp_path: Path, kind: str) -> None:
    """In one line that names it, and soon."""
    ids = dict.fromkeys(("vendor", "device", "revision", "class_code", "subsystem_vendor", "subsystem"), 1)
    about = {"shape": {"pci": ids, "regions": {}, "irqs": {}}, "state": "STOP", "flags": []}
    with NewFile(tmp_path / "a.state", about) as new:
        new.finish()
    for number, words in enumerate([("save", "x"), ("load", "a.state"), ("migrate", "b.sock")]):
        name = f"{number}.sock"
        with somebody(tmp_path / name, kind):
            out = run(words[0], name, *words[1:], "--timeout", "0.3")
        assert out.returncode == 1
        (line,) = out.stderr.splitlines()
        assert name in line


@contextmanager
def somebody(path: Path, kind: str) -> Iterator[None]:
    """Who listens there is no server of ours."""
    if kind == "file":
        path.write_text("")
        yield
        return

    def answer() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:  # nobody came
            return
        with connection:
            if kind != "closes":
                connection.recv(4096)
            if kind == "babbles":
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            while kind == "silent" and connection.recv(4096):
                pass

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=answer)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(SECONDS)
        assert not thread.is_alive()


async def test_a_device_that_is_in_use_is_said_so(run: Run, two: tuple[Path, Path]) -> None:
    async with await Client.connect(two[0]):
        for words in (("save", two[0], "x"), ("load", two[0], "x"), ("migrate", two[1], two[0])):
            Path("x").unlink(missing_ok=True)
            if words[0] == "load":
                assert (await asyncio.to_thread(run, "save", two[1], "x")).returncode == 0
            out = await asyncio.to_thread(run, *words, "--timeout", "0.3")
            assert out.returncode == 1
            assert "is the device in use?" in out.stderr


# -- files


def test_an_existing_file_is_kept(run: Run, two: tuple[Path, Path]) -> None:
    Path("a.state").write_text("precious")
    out = run("save", two[0], "a.state")
    assert out.returncode == 2
    assert "a.state exists; use --force to replace it" in out.stderr
    assert Path("a.state").read_text() == "precious"
    assert run("save", two[0], "a.state", "--force").returncode == 0
    assert SavedFile.read(Path("a.state")).size > FRAMES


def test_what_is_no_file_is_not_replaced_by_one(run: Run, two: tuple[Path, Path]) -> None:
    for path in ("/dev/full", "/dev/null", "/"):
        out = run("save", two[0], path, "--force")
        assert out.returncode == 2
        assert not Path(path).is_file()


async def test_a_full_disk_lets_the_device_go_on(two: tuple[Path, Path], tmp_path: Path) -> None:
    """A tmpfs of its own, smaller than the state."""
    place = tmp_path / "small"
    place.mkdir()
    script = (
        f"mount -t tmpfs -o size=1M none {place} && {' '.join(COMMAND)} save {two[0]} {place}/a.state; ls -a {place}"
    )
    out = await asyncio.to_thread(
        subprocess.run, ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, timeout=SECONDS
    )
    if "unshare" in out.stderr or "mount" in out.stderr:
        pytest.skip(f"no file system can be mounted here: {out.stderr}")
    assert out.stderr.splitlines() == [
        f"{two[0]} is RUNNING again",
        f"vfuserver: error: {place}/a.state: No space left on device",
    ]
    assert out.stdout.split() == [".", ".."]
    await is_unharmed(two[0])


# -- in the middle


@pytest.mark.parametrize(
    ("dies", "step"), [("source", "on_save"), ("destination", "check_load")], ids=["source", "destination"]
)
async def test_a_server_that_dies_leaves_the_other_one_as_after_a_reset_or_running(
    run: Run, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: str, step: str
) -> None:
    """S3.23: killed at STOP_COPY, or when all of the state is there."""
    with contextlib.ExitStack() as stack:
        for name in ("source", "destination"):
            with monkeypatch.context() as environment:
                environment.setenv("DIES", step if name == dies else "")
                stack.enter_context(serve(DEVICE, "--socket", name))
        out = await asyncio.to_thread(run, "migrate", "source", "destination")
        assert out.returncode == 1
        lives = "destination" if dies == "source" else "source"
        lines = out.stderr.splitlines()
        assert ("destination was reset" if dies == "source" else "source is RUNNING again") in lines
        assert [line for line in lines if line.startswith(f"{dies} could not")]
        assert lines[-1].startswith("vfuserver: error: ")
        assert dies in lines[-1]
        await is_unharmed(tmp_path / lives)


@pytest.mark.parametrize("killed", ["a", "b"])
async def test_a_server_killed_between_two_pieces_leaves_the_other_one_unharmed(
    serve: Serve, tmp_path: Path, killed: str
) -> None:
    """S3.23: in pre-copy."""
    with serve(DEVICE, "--socket", "a") as first, serve(DEVICE, "--socket", "b") as second:
        process = {"a": first, "b": second}[killed].process
        pieces = iter(range(100))

        def advance(_: int) -> None:
            if next(pieces) == 2:
                process.kill()
                process.wait()

        async with ends(tmp_path / "a", tmp_path / "b") as (here, there):
            with pytest.raises(VfuserverError):
                await Move(here, there, rounds=16, mirror=None, advance=advance).run()
        await is_unharmed(tmp_path / ("b" if killed == "a" else "a"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", [MigDataRead, MigDataWrite])
async def test_ctrl_c_in_the_middle_undoes_a_migration(
    two: tuple[Path, Path], tmp_path: Path, command: type[Command], number: signal.Signals
) -> None:
    """A reply waits until the command line has done something about the signal."""
    running: list[subprocess.Popen[str]] = []

    def interrupt() -> None:
        running[0].send_signal(number)

    holds = dict.fromkeys(("source", "destination"), 0)
    holds["source" if command is MigDataRead else "destination"] = command.number
    middles = [
        Middle(tmp_path / name, server, hold=holds[name], held=interrupt)
        for name, server in zip(holds, two, strict=True)
    ]
    with middles[0], middles[1]:
        words = [*COMMAND, "migrate", "source", "destination"]
        running.append(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        out, err = await asyncio.to_thread(running[0].communicate, timeout=SECONDS)
    assert (running[0].returncode, out) == (130, "")
    assert err.strip().splitlines() == ["destination was reset", "source is RUNNING again"]
    for path in two:
        await is_unharmed(path)


async def test_ctrl_c_while_a_state_is_saved_or_loaded_undoes_it(two: tuple[Path, Path], tmp_path: Path) -> None:
    async with source_at(two[0], SECONDS) as here:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(_cancelled_save(here, tmp_path / "x"))
        assert await here.client.device_state() is RUNNING
        with NewFile(tmp_path / "a.state", {"shape": here.shape, "state": "RUNNING", "flags": []}) as new:
            await save(here, new.write)
            new.finish()
    assert sorted(one.name for one in tmp_path.glob("*")) == [
        "a.sock",
        "a.sock.control",
        "a.state",
        "b.sock",
        "b.sock.control",
    ]
    async with destination_at(two[1], SECONDS) as there:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(load(there, SavedFile.read(tmp_path / "a.state").chunks(), RUNNING, cancelling()))
    await is_unharmed(two[1])


def cancelling() -> Advance:
    """Cancels its task at the third piece, as Ctrl-C does."""
    pieces = iter(range(100))

    def advance(_: int) -> None:
        task = asyncio.current_task()
        if next(pieces) == 2 and task is not None:
            task.cancel()

    return advance


async def _cancelled_save(here: End, path: Path) -> None:
    advance = cancelling()
    with NewFile(path, {}) as new:

        def write(piece: memoryview) -> None:
            new.write(piece)
            advance(len(piece))

        async with going_on_after_failure(here):
            await save(here, write)
