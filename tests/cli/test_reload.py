"""`serve --reload`: the device's source is edited while it is served."""

import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Run, Serve
from vfuserver.cli import _reloading
from vfuserver.device import load_model
from vfuserver.errors import UsageError

MODEL = """
from vfuserver import Bar, KiB, PciDevice, PciIdentity

class Mine(PciDevice):
    identity = PciIdentity(vendor=0x1234, device=0x0001, class_code=0xFF0000)
    registers = Bar(0, size=4 * KiB)
    version = registers.ro(0x00, reset=1)
"""
SECONDS = 30.0


def until_logged(log: Path, text: str, times: int = 1) -> None:
    end = time.monotonic() + SECONDS
    while log.read_text().count(text) < times:
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.02)


def test_each_save_of_the_source_is_an_upgrade_and_a_mistake_is_said(serve: Serve, tmp_path: Path) -> None:
    source, log = tmp_path / "mine.py", tmp_path / "log"
    source.write_text(MODEL)
    with log.open("w") as stderr, serve(f"{source}:Mine", "--socket", "m.sock", "--reload", stderr=stderr):
        source.write_text(MODEL + "# edited, before anybody watches\n")
        until_logged(log, "has taken over")
        source.write_text(MODEL.replace("class", "clas"))
        until_logged(log, "cannot be imported: SyntaxError")
        until_logged(log, "the present process goes on")
        source.write_text(MODEL.replace("registers.ro", "registers.rw"))
        until_logged(log, "has taken over", times=2)
    assert "Traceback" not in log.read_text()


def test_reload_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(UsageError, match=r"vfuserver\[reload\]"):
        _reloading.require_watcher()


def test_what_is_watched_is_what_was_imported_beside_the_class() -> None:
    found = {file.name for file in _reloading.sources([load_model("testdev")])}
    assert {"__init__.py", "device.py", "engine.py"} <= found
    assert "pci_device.py" not in found


@pytest.mark.parametrize("words", [("--checkpoint", "1"), ("--checkpoint", "0", "--supervise")])
def test_checkpoint_that_makes_no_sense_is_refused(run: Run, words: tuple[str, ...]) -> None:
    done = run("serve", "edu", "--socket", "e.sock", *words)
    assert done.returncode == 2
    assert "--checkpoint" in done.stderr
