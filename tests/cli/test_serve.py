"""`vfuserver serve DEVICE --socket PATH`: sockets, signals, options."""

import errno
import os
import resource
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Serve
from vfuserver.client import Client, GuestMemory
from vfuserver.errors import CommandError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_serve_prints_one_ready_line_and_ends_on_a_signal(
    serve: Serve, tmp_path: Path, loop: str, number: signal.Signals
) -> None:
    path = tmp_path / "edu.sock"
    with serve("edu", "--socket", path, "--loop", loop) as serving:
        assert serving.lines == [f"ready edu {path}"]
        assert path.is_socket()
        code, out, err = serving.end(number)
    assert (code, out) == (0, ""), err
    assert not path.exists()


async def test_serve_answers_a_client_and_logs_it(serve: Serve, tmp_path: Path) -> None:
    with serve("edu", "--socket-path", tmp_path / "edu.sock") as serving:
        async with await Client.connect(tmp_path / "edu.sock") as client:
            await client.enable()
            assert await client.region_read(0, 0, 4) == bytes.fromhex("ed000001")
        _, _, err = serving.end()
    assert "info    edu#1: client speaks 0.0" in err
    assert "edu#1: connection closed: the client has closed the connection" in err


def test_serve_makes_the_socket_for_its_owner_only(serve: Serve, tmp_path: Path) -> None:
    with serve("edu", "--socket", "edu.sock"):
        assert stat.S_IMODE(os.stat(tmp_path / "edu.sock").st_mode) == 0o600


def test_serve_makes_the_socket_with_the_mode_asked_for(serve: Serve, tmp_path: Path) -> None:
    with serve("edu", "--socket", "edu.sock", "--socket-mode", "0666"):
        assert stat.S_IMODE(os.stat(tmp_path / "edu.sock").st_mode) == 0o666


def test_serve_replaces_a_stale_socket(serve: Serve, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "edu.sock"))
    with serve("edu", "--socket", "edu.sock") as serving:
        assert serving.lines == ["ready edu edu.sock"]


def test_serve_never_steals_a_live_socket(serve: Serve, run: Run) -> None:
    with serve("edu", "--socket", "edu.sock"):
        second = run("serve", "testdev", "--socket", "edu.sock")
        assert second.returncode == 2
        assert second.stdout == ""
        assert "a live server listens on edu.sock: stop it, or choose another path" in second.stderr
        assert run("probe", "edu.sock").returncode == 0


def test_serve_keeps_a_file_that_is_no_socket(run: Run, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    done = run("serve", "edu", "--socket", "precious")
    assert done.returncode == 2
    assert "precious exists and is not a socket" in done.stderr
    assert (tmp_path / "precious").read_text() == "data"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("nonsense", "--socket", "x.sock"), "there is no device nonsense"),
        (("edu", "--socket", "x.sock", "--set", "speed=9"), "edu has no option speed; it has dma-mask"),
        (("edu", "--socket", "x.sock", "--set", "dma-mask=big"), "option dma-mask must be a whole number"),
        (("edu",), "give either --socket PATH"),
        (("edu", "--socket", "x.sock", "--fd", "3"), "give either --socket PATH"),
        ((), "which device?"),
        (("edu", "--socket", "x.sock", "--socket-mode", "rw"), "must be permissions in octal"),
        (("edu", "--socket", "x.sock", "--max-data-xfer-size", "1"), "max_data_xfer_size must be 4096 to"),
        (("edu", "--socket", "nowhere/x.sock"), "cannot listen on nowhere/x.sock: No such file or directory"),
        (("edu", "--fd", "99"), "--fd 99 must be an open socket"),
        (("./none.py:Nothing", "--socket", "x.sock"), "there is no file none.py"),
    ],
)
def test_serve_that_cannot_be_exits_2_and_leaves_nothing(
    run: Run, tmp_path: Path, words: tuple[str, ...], text: str
) -> None:
    done = run("serve", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_serve_of_a_class_in_a_file_that_is_wrong_says_what_is_wrong(run: Run, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(
        "from vfuserver import Bar, PciDevice, PciIdentity\n"
        "class Wrong(PciDevice):\n"
        "    identity = PciIdentity(vendor=1, device=1)\n"
        "    bar = Bar(0, size=17)\n"
    )
    done = run("serve", "wrong.py:Wrong", "--socket", "x.sock")
    assert done.returncode == 2
    assert "BAR0" in done.stderr
    assert "not 0x11" in done.stderr


async def test_serve_tells_the_client_the_limits_that_were_chosen(serve: Serve, tmp_path: Path) -> None:
    limits = ("--max-data-xfer-size", "0x2000", "--max-msg-fds", "4", "--max-dma-maps", "9", "--write-multiple")
    with serve("edu", "--socket", "edu.sock", *limits):
        async with await Client.connect(tmp_path / "edu.sock") as client:
            assert client.server.max_data_xfer_size == 0x2000
            assert client.server.max_msg_fds == 4
            assert client.server.max_dma_maps == 9
            assert client.server.write_multiple


@pytest.mark.parametrize("limit", [("--max-dma-maps", "1"), ("--max-dma-bytes", "0x1000")])
async def test_serve_says_which_limit_of_memory_was_met(serve: Serve, tmp_path: Path, limit: tuple[str, str]) -> None:
    """S1.14."""
    with serve("edu", "--socket", "edu.sock", *limit) as serving:
        async with await Client.connect(tmp_path / "edu.sock") as client:
            memory = client.own(GuestMemory(0x2000))
            await client.dma_map(0, memory, size=0x1000)
            with pytest.raises(CommandError) as caught:
                await client.dma_map(0x1000, memory, size=0x1000)
        assert caught.value.errno == errno.ENOSPC
        assert " ".join(limit) in serving.end()[2]


def test_serve_takes_all_descriptors_that_it_may_have(serve: Serve) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard - 1), hard))
    try:
        with serve("edu", "--socket", "edu.sock") as serving:
            assert resource.prlimit(serving.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_serve_gives_up_an_answer_after_the_deadline(serve: Serve, tmp_path: Path) -> None:
    with serve("testdev", "--socket", "t.sock", "--deadline", "0.2"):
        async with await Client.connect(tmp_path / "t.sock") as client:
            await client.enable()
            await client.region_write(0, 0x44, (3_000_000).to_bytes(4, "little"))
            with pytest.raises(CommandError) as caught:
                await client.region_read(0, 0x48, 4)
            assert caught.value.errno == errno.ETIMEDOUT


async def test_serve_suggests_undeclared_registers(serve: Serve, tmp_path: Path) -> None:
    with serve("edu", "--socket", "edu.sock", "--suggest", "--log-level", "warning") as serving:
        async with await Client.connect(tmp_path / "edu.sock") as client:
            await client.enable()
            await client.region_write(0, 0x300, b"\x10\0\0\0")
        _, _, err = serving.end()
    assert "guest wrote 0x10 to BAR0+0x300 (4 bytes), nobody declared it" in err
    assert "client speaks" not in err


async def test_serve_runs_the_device_with_its_options(serve: Serve, tmp_path: Path) -> None:
    with serve("gpio-idio-16", "--socket", "g.sock", "--set", "inputs=0xa5", "--set", "loopback=no"):
        async with await Client.connect(tmp_path / "g.sock") as client:
            await client.enable()
            assert await client.region_read(2, 1, 1) == b"\xa5"


BROKEN = """
from vfuserver import Msi, PciDevice, PciIdentity, VendorSpecific

class Loop(VendorSpecific):
    def header_bytes(self, following):
        return bytes((self.id, 0x40))

class Broken(PciDevice):
    identity = PciIdentity(0x1234, 1)
    capabilities = (Loop(8), Msi())
"""


def test_serve_of_a_device_with_a_broken_capability_list_never_listens(run: Run, tmp_path: Path) -> None:
    """S2.6: configuration space is complete before the socket is there."""
    (tmp_path / "broken.py").write_text(BROKEN)
    done = run("serve", "broken.py:Broken", "--socket", "broken.sock")
    assert done.returncode != 0
    assert done.stdout == ""
    assert "the capability list is" in done.stderr
    assert not (tmp_path / "broken.sock").exists()
