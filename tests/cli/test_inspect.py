"""`vfuserver inspect SOCKET-OR-PID`: what a server that runs holds, as text and JSON (S4.26)."""

import asyncio
import json
import os
import re
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.cli.conftest import Run, Serve
from vfuserver.client import Client, GuestMemory
from vfuserver.control import ControlClient, control_socket
from vfuserver.errors import UsageError
from vfuserver.session.commands.dma_map import DmaMapFlags
from vfuserver.vfio import PciIrq

GOLDEN = Path(__file__).parent / "golden"
DEVICE = f"{Path(__file__).parent / 'looked_at.py'}:LookedAt"
PAGE = 4096
MEMORY, REMOTE, READ_ONLY = 0x10000, 0x40000, 0x80000


@asynccontextmanager
async def session(path: Path) -> AsyncIterator[Client]:
    """A client that has set up all there is, a view and a pending interrupt included, and waits for an answer."""
    async with await Client.connect(path, {"max_msg_fds": 16, "twin_socket": {"supported": True}}) as client:
        await client.enable()
        memory = client.own(GuestMemory(8 * PAGE))
        await client.dma_map(MEMORY, memory, size=4 * PAGE)
        await client.dma_map(READ_ONLY, memory, size=PAGE, offset=4 * PAGE, access=DmaMapFlags.READ)
        await client.dma_map(REMOTE, client.own(GuestMemory(PAGE)), share=False)
        await client.dma_logging_start()
        await client.arm_msi(2)
        await client.mask(PciIrq.MSI, 1)
        await client.region_write(0, 4, b"\1\0\0\0")
        await client.region_write(0, 0, (MEMORY + 16).to_bytes(4, "little"))
        waiting = asyncio.ensure_future(client.region_read(0, 8, 4))
        await asyncio.sleep(0)
        yield client
    with pytest.raises(Exception, match="closed"):
        await waiting


def until_held(run: Run, server: str | Path, *words: str) -> str:
    """What inspect prints once the slow register is being read."""
    while True:
        done = run("inspect", server, *words)
        assert done.returncode == 0, done.stderr
        if "waiting for an answer" in done.stdout:
            return done.stdout


def normal(found: Any) -> Any:
    """Without what differs from run to run."""
    found["server"]["version"] = "VERSION"
    found["server"]["pid"] = found["devices"][0]["connection"]["peer_pid"] = 0
    found["devices"][0]["connection"]["polling"] = dict.fromkeys(found["devices"][0]["connection"]["polling"], 0)
    for source in found["sources"]:
        source["device"] = source["inode"] = 0
    return found


def normal_text(text: str) -> list[str]:
    """Likewise, and columns as wide as they like."""
    text = re.sub(r"^vfuserver \S+,", "vfuserver VERSION,", re.sub(r"process \d+", "process PID", text))
    text = re.sub(r"(?<=    polling) .*", " POLLING", text)
    text = re.sub(r"^( +\d+) +\d+ +\d+(?= +\d+ [KMG]iB)", r"\1 DEVICE INODE", text, flags=re.MULTILINE)
    return [re.sub(r"(?<=\S) +", " ", line) for line in text.splitlines()]


async def test_inspect_of_a_scripted_session_is_always_the_same(serve: Serve, run: Run, tmp_path: Path) -> None:
    """S4.26: contexts, spaces, areas, sources with counts, views, the log of writes, connections and devices."""
    with serve(DEVICE, "--socket", "l.sock"):
        async with session(tmp_path / "l.sock"):
            text = await asyncio.to_thread(until_held, run, "l.sock")
            found = json.loads(await asyncio.to_thread(until_held, run, "l.sock", "--json"))
        assert normal(found) == json.loads((GOLDEN / "inspect.json").read_text())
        assert normal_text(text) == normal_text((GOLDEN / "inspect.txt").read_text())


async def test_inspect_by_process_id_finds_the_same_server(serve: Serve, run: Run, tmp_path: Path) -> None:
    with serve("idio-pair", "--socket", "a.sock", "--socket", tmp_path / "b.sock", count=2) as serving:
        by_pid, *by_socket = (
            json.loads(run("inspect", server, "--json", cwd=folder).stdout)
            for server, folder in ((serving.process.pid, "/"), ("a.sock", tmp_path), ("b.sock", tmp_path))
        )
        assert by_socket == [by_pid, by_pid]
    assert by_pid["server"]["pid"] == serving.process.pid
    assert [device["socket"] for device in by_pid["devices"]] == ["a.sock", str(tmp_path / "b.sock")]
    assert [device["connection"] for device in by_pid["devices"]] == [None, None]


async def test_inspect_sums_up_many_areas_and_lists_them_when_asked(serve: Serve, run: Run, tmp_path: Path) -> None:
    with serve("edu", "--socket", "e.sock"):
        async with await Client.connect(tmp_path / "e.sock") as client:
            memory = client.own(GuestMemory(PAGE))
            starts = [number * 2 * PAGE for number in range(1000)] + [(1 << 64) - PAGE]
            await asyncio.gather(*(client.dma_map(at, memory) for at in starts))
            few, everything = [
                json.loads((await asyncio.to_thread(run, "inspect", "e.sock", "--json", *words)).stdout)["spaces"][0]
                for words in ((), ("--areas",))
            ]
            text = (await asyncio.to_thread(run, "inspect", "e.sock")).stdout
    assert (few["count"], len(few["areas"])) == (1001, 256)
    assert [area["iova"] for area in everything["areas"]] == starts
    assert few["areas"] == everything["areas"][:256]
    assert "and 745 more areas (--areas lists all of them)" in text


def test_inspect_of_what_is_no_server_exits_2_and_says_why(run: Run, tmp_path: Path) -> None:
    for name in ("other.sock", "stale.sock", "stale.sock.control"):
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(tmp_path / name))
    for server, text in (
        ("nowhere.sock", "there is no socket nowhere.sock: must be the socket that a vfuserver serves"),
        ("other.sock", "other.sock has no control socket other.sock.control beside it"),
        ("stale.sock", "stale.sock.control: nobody listens there any more"),
        (str(os.getpid()), f"process {os.getpid()} has no control socket"),
        ("4194305", "there is no process 4194305; a socket of that name is ./4194305"),
        ("x" * 120, "there is no socket xxx"),
        ("x" * 300, "cannot look for xxx"),
    ):
        done = run("inspect", server)
        assert (done.returncode, done.stdout) == (2, ""), server
        assert text in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_s_server_is_not_asked(serve: Serve, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with serve("edu", "--socket", "e.sock") as serving, TemporaryDirectory() as elsewhere:
        os.chmod(elsewhere, 0o755)
        control = Path(elsewhere) / "e.sock.control"
        (tmp_path / control.name).rename(control)
        assert control.stat().st_mode & 0o777 == 0o600
        os.seteuid(65534)
        try:
            with pytest.raises(UsageError, match="only the user who runs the server, and root, may connect"):
                ControlClient(control)
            with pytest.raises(UsageError, match=f"process {serving.process.pid} is another user's"):
                control_socket(str(serving.process.pid))
        finally:
            os.seteuid(0)


def test_control_socket_lives_as_long_as_the_socket_and_a_stale_one_is_replaced(
    serve: Serve, run: Run, tmp_path: Path
) -> None:
    with serve("edu", "--socket", "e.sock") as serving:
        serving.process.kill()
        serving.process.wait()
    assert run("inspect", "e.sock").returncode == 2
    with serve("edu", "--socket", "e.sock"):
        assert run("inspect", "e.sock").returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("obstacle", ["a file", "a long path"])
def test_server_without_a_control_socket_serves_and_says_so(
    serve: Serve, run: Run, tmp_path: Path, obstacle: str
) -> None:
    name = "e.sock" if obstacle == "a file" else "e" * 101
    if obstacle == "a file":
        (tmp_path / "e.sock.control").write_text("precious")
    with serve("edu", "--socket", name) as serving:
        assert run("probe", name).returncode == 0
        assert run("inspect", serving.process.pid).returncode == 2
        _, _, err = serving.end()
    assert f"no control socket, so that `vfuserver inspect {name}` finds nobody" in err
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"] * (obstacle == "a file")


def test_server_of_an_inherited_socket_has_no_control_socket(serve: Serve, run: Run, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "theirs.sock"))
        listener.listen()
        with serve("edu", "--fd", str(listener.fileno()), pass_fds=[listener.fileno()]) as serving:
            done: list[subprocess.CompletedProcess[str]] = [
                run("inspect", "theirs.sock"),
                run("inspect", serving.process.pid),
            ]
    assert [one.returncode for one in done] == [2, 2]
    assert "theirs.sock has no control socket" in done[0].stderr
    assert "serves inherited sockets (--fd)" in done[1].stderr
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.sock"]
