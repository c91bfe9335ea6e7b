"""`serve --engine libvfio-user` and what needs another process: its connections belong to the library."""

import os
import time
from pathlib import Path

import pytest

from tests.cli.conftest import SECONDS, Run, Serve

needs_library = pytest.mark.skipif(
    "LIBVFIO_USER_SO" not in os.environ, reason="LIBVFIO_USER_SO does not name libvfio-user's library"
)
OTHER = 'engine = "libvfio-user"\nmigration = "none"\n'
WHY = "libvfio-user's connections belong to the library"
MODEL = """
from vfuserver import Bar, KiB, PciDevice, PciIdentity

class Mine(PciDevice):
    identity = PciIdentity(vendor=0x1234, device=0x0001, class_code=0xFF0000)
    registers = Bar(0, size=4 * KiB)
"""


def config(engine: str) -> Path:
    """Two devices, the second of which is served by `engine` (a line of the file)."""
    path = Path("devices.toml")
    first, second = (f'[[device]]\ndevice = "edu"\nsocket = "{name}.sock"\nname = "{name}"\n' for name in "ab")
    path.write_text(first + second + engine)
    return path


def until_logged(log: Path, text: str, times: int = 1) -> None:
    end = time.monotonic() + SECONDS
    while log.read_text().count(text) < times:
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)


def test_supervise_is_refused_at_the_start(run: Run) -> None:
    done = run("serve", "edu", "--engine", "libvfio-user", "--socket", "e.sock", "--supervise")
    assert done.returncode == 2
    assert "edu cannot be served with --supervise" in done.stderr
    assert WHY in done.stderr
    assert not Path("e.sock").exists()


def test_supervise_is_refused_for_one_of_a_file_s_devices(run: Run) -> None:
    done = run("serve", "--config", config(OTHER), "--supervise")
    assert done.returncode == 2
    assert "b cannot be served with --supervise" in done.stderr


def test_upgrade_to_the_other_engine_is_refused_and_the_server_goes_on(run: Run, serve: Serve) -> None:
    with serve("--config", config(""), count=2):
        config(OTHER)
        done = run("upgrade", "a.sock")
        assert done.returncode == 1
        assert "b cannot be taken over" in done.stderr
        assert WHY in done.stderr
        config("")
        assert run("upgrade", "a.sock").returncode == 0
        assert run("probe", "b.sock").returncode == 0


@needs_library
def test_upgrade_of_the_other_engine_is_refused_and_its_client_is_served(run: Run, serve: Serve) -> None:
    with serve("edu", "--engine", "libvfio-user", "--migration", "none", "--socket", "e.sock") as serving:
        done = run("upgrade", "e.sock")
        assert done.returncode == 1
        assert WHY in done.stderr
        assert run("probe", "e.sock").returncode == 0
        assert serving.process.poll() is None


@needs_library
def test_upgrade_from_the_other_engine_is_refused_and_both_devices_are_served(run: Run, serve: Serve) -> None:
    """The new process is ready for both, but the present one cannot give away the second; the first goes on, too."""
    with serve("--config", config(OTHER), count=2):
        config("")
        done = run("upgrade", "a.sock")
        assert done.returncode == 1
        assert f"b cannot be handed over: {WHY}" in done.stderr
        for path in ("a.sock", "b.sock"):
            assert run("probe", path).returncode == 0


@needs_library
@pytest.mark.parametrize("meanwhile", [OTHER, ""], ids=["the-same", "our-engine"])
def test_reload_says_each_time_why_it_is_not_replaced(run: Run, serve: Serve, meanwhile: str) -> None:
    source, log = Path("mine.py").absolute(), Path("log")
    source.write_text(MODEL)
    file = Path("devices.toml")
    one = f'[[device]]\ndevice = "{source}:Mine"\nsocket = "m.sock"\n'
    file.write_text(one + OTHER)
    with log.open("w") as stderr, serve("--config", file, "--reload", stderr=stderr):
        file.write_text(one + meanwhile)
        for times in (1, 2):
            source.write_text(MODEL + f"# edited {times} times\n")
            until_logged(log, WHY, times)
        assert run("probe", "m.sock").returncode == 0
    assert "Traceback" not in log.read_text()
