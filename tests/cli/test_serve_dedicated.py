"""`serve --poll dedicated`: a device with a thread of its own, as a person starts, inspects, replaces and ends it."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Serve
from vfuserver.client import Client
from vfuserver.client.errors import DisconnectedError

ONE = '[[device]]\ndevice = "testdev"\nsocket = "hot.sock"\npoll = "dedicated"\nset = { mappable = "no" }\n'
OTHER = '[[device]]\ndevice = "edu"\nsocket = "cool.sock"\n'


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_signal_ends_the_server_while_it_polls(
    serve: Serve, tmp_path: Path, loop: str, number: signal.Signals
) -> None:
    with serve("testdev", "--socket", "hot.sock", "--poll", "dedicated", "--loop", loop) as serving:
        async with await Client.connect(tmp_path / "hot.sock") as client:
            await client.enable()
            assert await client.region_read(0, 0, 4) == b"TEST"
            assert threads(serving.process.pid) == 2
            code, out, err = serving.end(number)
            with pytest.raises(DisconnectedError):
                await client.region_read(0, 0, 4)
    assert (code, out) == (0, ""), err
    assert "Traceback" not in err
    assert not os.listdir(tmp_path)


async def test_one_device_of_a_file_has_a_thread_and_inspect_says_what_it_costs(
    serve: Serve, run: Run, tmp_path: Path
) -> None:
    """S4.26."""
    Path("devices.toml").write_text(ONE + OTHER)
    with serve("--config", "devices.toml", count=2) as serving:
        assert threads(serving.process.pid) == 2
        hot, cool = tmp_path / "hot.sock", tmp_path / "cool.sock"
        async with await Client.connect(hot) as one, await Client.connect(cool) as other:
            for client in (one, other):
                await client.enable()
                await client.region_read(0, 0, 4)
            found = json.loads(run("inspect", "cool.sock", "--json").stdout)
            modes = [device["connection"]["polling"]["mode"] for device in found["devices"]]
            assert modes == ["dedicated", "auto"]
            assert found["devices"][0]["thread"]["cpu_seconds"] > 0
            assert "thread" not in found["devices"][1]
            shown = run("inspect", "hot.sock").stdout
    assert re.search(r"thread +testdev \(its own thread\), \d+\.\d+ s of CPU so far", shown)
    assert re.search(
        r"polling +always, by a thread that takes a whole processor; \d+ messages came to it, \d+ times", shown
    )


async def test_server_is_replaced_while_its_thread_polls_and_the_new_one_polls_too(
    serve: Serve, run: Run, tmp_path: Path
) -> None:
    Path("devices.toml").write_text(ONE + OTHER)
    log = tmp_path / "log"
    with log.open("w") as stderr, serve("--config", "devices.toml", count=2, stderr=stderr):
        async with await Client.connect(tmp_path / "hot.sock") as client:
            await client.enable()
            await client.region_write(0, 4, b"kept")
            for _ in range(2):
                done = run("upgrade", "hot.sock")
                assert done.returncode == 0, done.stderr
                assert await client.region_read(0, 4, 4) == b"kept"
            found = json.loads(run("inspect", "hot.sock", "--json").stdout)
            polling = found["devices"][0]["connection"]["polling"]
            assert polling["mode"] == "dedicated"
            assert polling["spins"] > 0
            assert threads(found["server"]["pid"]) == 2
    assert "Traceback" not in log.read_text()


def test_supervise_is_refused_at_the_start(run: Run) -> None:
    done = run("serve", "edu", "--poll", "dedicated", "--socket", "e.sock", "--supervise")
    assert done.returncode == 2
    assert "edu cannot be served with --poll dedicated and --supervise" in done.stderr
    assert not Path("e.sock").exists()


def test_device_that_cannot_be_made_ends_the_command_with_its_reason(run: Run) -> None:
    done = run("serve", "edu", "--poll", "dedicated", "--socket", "e.sock", "--set", "nonsense=1")
    assert done.returncode == 2
    assert "nonsense" in done.stderr
    assert not Path("e.sock").exists()


async def test_functions_of_a_card_share_one_thread(serve: Serve, tmp_path: Path) -> None:
    words = ("idio-pair", "--socket", "f0.sock", "--socket", "f1.sock", "--poll", "dedicated")
    with serve(*words, count=2) as serving:
        assert threads(serving.process.pid) == 2
        for name in ("f0.sock", "f1.sock"):
            async with await Client.connect(tmp_path / name) as client:
                assert (await client.device_info()).num_regions == 9
