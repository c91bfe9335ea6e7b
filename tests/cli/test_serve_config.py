"""`vfuserver serve --config FILE.toml`: many devices in one process."""

import os
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Serve
from vfuserver.client import Client

TWO = """
log-level = "warning"
socket-mode = "0660"

[[device]]
device = "gpio-idio-16"
socket = "gpio.sock"
name = "card"
set = { inputs = 0x81 }

[[device]]
device = "mine.py:Mine"
socket = "mine.sock"
socket-mode = 0o600
max-data-xfer-size = 8192
"""
MINE = """
from vfuserver import Bar, PciDevice, PciIdentity

class Mine(PciDevice):
    identity = PciIdentity(vendor=0x1234, device=0x5678)
    bar = Bar(0, size=16)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The file and a device beside it, elsewhere than where the command runs."""
    place = tmp_path / "etc"
    place.mkdir()
    (place / "devices.toml").write_text(TWO)
    (place / "mine.py").write_text(MINE)
    return place


async def test_config_serves_every_device_beside_the_file(serve: Serve, folder: Path) -> None:
    with serve("--config", folder / "devices.toml", count=2) as serving:
        assert serving.lines == [f"ready card {folder}/gpio.sock", f"ready mine {folder}/mine.sock"]
        async with (
            await Client.connect(folder / "gpio.sock") as gpio,
            await Client.connect(folder / "mine.sock") as mine,
        ):
            await gpio.enable()
            assert await gpio.region_read(2, 1, 1) == b"\x81"
            assert await mine.config_read(0) == 0x5678_1234
            assert (gpio.server.max_data_xfer_size, mine.server.max_data_xfer_size) == (1 << 20, 8192)
        modes = [stat.S_IMODE(os.stat(folder / name).st_mode) for name in ("gpio.sock", "mine.sock")]
        assert modes == [0o660, 0o600]
        code, _, err = serving.end()
    assert (code, err) == (0, "")
    assert not list(folder.glob("*.sock"))


def test_config_gives_way_to_the_command_line_and_wins_for_one_device(serve: Serve, folder: Path) -> None:
    with serve("--config", folder / "devices.toml", "--socket-mode", "0666", "--log-level", "debug", count=2):
        modes = [stat.S_IMODE(os.stat(folder / name).st_mode) for name in ("gpio.sock", "mine.sock")]
    assert modes == [0o666, 0o600]


DEVICE = '[[device]]\ndevice = "edu"\nsocket = "x.sock"\n'


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "devices must be listed as [[device]] tables"),
        ("device = 3", "devices must be listed as [[device]] tables"),
        ("device = [3]", "[[device]] 1: must be a table, not 3"),
        ("[[device]", "is not TOML"),
        ('[[device]]\nsocket = "x.sock"', "[[device]] 1: the key device must be there"),
        ('[[device]]\ndevice = "edu"', "[[device]] 1: either socket or fd must be there"),
        (DEVICE + "fd = 3", "[[device]] 1: either socket or fd must be there"),
        (DEVICE + "sped = 1", "[[device]] 1: there is no key sped; there are device, socket,"),
        (DEVICE + 'suggest = "yes"', "suggest must be true or false, not 'yes'"),
        (DEVICE + "socket-mode = 0o7777", "socket-mode must be permissions in octal"),
        (DEVICE + "max-msg-fds = true", "max-msg-fds must be a whole number, not True"),
        (DEVICE + "set = 1", "set must be a table"),
        (DEVICE + "quirks = 1", "quirks must be a table"),
        (DEVICE + 'quirks = { message-dma = "new" }', "quirk message-dma must be auto or spec or old, not 'new'"),
        (
            DEVICE + 'quirks = { nerves = "weak" }',
            "quirk must be one of message-dma, region-errors, sparse-mmap-fds, private-memory, pre-copy, "
            "mig-data-read, not 'nerves'",
        ),
        (DEVICE + "[device.set]\nspeed = 1", "edu has no option speed"),
        ('loop = "fast"\n' + DEVICE, "loop must be uvloop or asyncio, not 'fast'"),
        ("deadline = -1\n" + DEVICE, "deadline must be a time in seconds, not -1"),
    ],
)
def test_config_that_is_wrong_exits_2_and_says_where(run: Run, tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "devices.toml").write_text(text)
    done = run("serve", "--config", "devices.toml")
    assert done.returncode == 2
    assert complaint in done.stderr
    assert not list(tmp_path.glob("*.sock"))


def test_config_that_is_not_there_exits_2(run: Run) -> None:
    done = run("serve", "--config", "nowhere.toml")
    assert done.returncode == 2
    assert "cannot read nowhere.toml: No such file or directory" in done.stderr


def test_config_with_a_device_on_the_command_line_exits_2(run: Run, folder: Path) -> None:
    done = run("serve", "edu", "--config", folder / "devices.toml")
    assert done.returncode == 2
    assert "--config names the devices, sockets and options itself" in done.stderr


def test_config_with_two_devices_on_one_socket_serves_neither(run: Run, tmp_path: Path) -> None:
    (tmp_path / "devices.toml").write_text(DEVICE + DEVICE)
    done = run("serve", "--config", "devices.toml")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "a live server listens on x.sock" in done.stderr
    assert not (tmp_path / "x.sock").exists()
