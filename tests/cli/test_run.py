"""`vfuserver run`: with a QEMU that only says what it was told (the wiring), and with a real one (guest)."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, SECONDS, Run
from vfuserver.cli._assigning import assign
from vfuserver.cli._qemu import brings_boot_medium, has_console, qemu_id
from vfuserver.errors import UsageError

TELLING = """#!/bin/sh
case "$*" in
    --version) echo "QEMU emulator version 11.1.3" ;;
    "-device help") echo 'name "vfio-user-pci"' ;;
    *) for word; do printf '%s\\n' "$word"; done >words; exec sh -c "$DOES" ;;
esac
"""


@pytest.fixture
def qemu(tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that passes for QEMU, writes its words to the file `words`, and then does what $DOES says."""
    program = tmp_path / "qemu-system-x86_64"
    program.write_text(TELLING)
    program.chmod(0o755)
    monkeypatch.setenv("VFUSERVER_QEMU", str(program))
    monkeypatch.setenv("VFUSERVER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DOES", "exit 0")
    return program


def told() -> list[str]:
    return Path("words").read_text().splitlines()


def test_run_ends_with_the_exit_code_of_qemu(run: Run, qemu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOES", "exit 7")
    assert run("run", "edu", "--guest", "none", "--", "-accel", "tcg").returncode == 7


def test_run_ends_with_128_and_the_signal_that_ended_qemu(
    run: Run, qemu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOES", "kill -ABRT $$")
    assert run("run", "edu", "--", "-kernel", "x", "-accel", "tcg").returncode == 128 + signal.SIGABRT


def test_run_gives_qemu_its_words_and_a_live_socket_for_every_device(
    run: Run, qemu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = f"{sys.executable} -m vfuserver probe $(dirname $(grep -o '/[^ ]*edu-2.sock' words))/edu-2.sock"
    monkeypatch.setenv("DOES", probe)
    done = run("run", "edu", "edu", "--guest", "none", "--topology", "q35-shared", "--", "-accel", "tcg", "-name", "it")
    assert done.returncode == 0, done.stderr
    assert "PCI function 1234:11e8" in done.stdout
    words = told()
    assert words[-4:] == ["-accel", "tcg", "-name", "it"]
    devices = [json.loads(words[at + 1]) for at, word in enumerate(words) if word == "-device"]
    assert [device["id"] for device in devices] == ["edu", "edu-2"]
    folder = Path(devices[0]["socket"]["path"]).parent
    assert folder.is_relative_to(tempfile.gettempdir())
    assert not folder.exists()


def test_run_can_be_inspected_by_its_process_id(run: Run, qemu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S4.26; the parent of QEMU is the server."""
    monkeypatch.setenv("DOES", f"{sys.executable} -m vfuserver inspect $PPID")
    done = run("run", "edu", "pvpanic", "--guest", "none", "--", "-accel", "tcg")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines() if line.startswith("Device")] == [
        ["Device", "edu"],
        ["Device", "pvpanic"],
    ]


def test_run_puts_the_functions_of_a_card_into_one_slot(run: Run, qemu: Path) -> None:
    words = ("run", "idio-pair", "edu", "idio-pair", "--set", "idio-pair-2.wired=no", "--guest", "none")
    done = run(*words, "--", "-accel", "tcg")
    assert done.returncode == 0, done.stderr
    devices = [json.loads(word) for word in told() if word.startswith("{")]
    assert [(one["id"], one.get("addr")) for one in devices] == [
        ("idio-pair.0", "0x10.0"),
        ("idio-pair.1", "0x10.1"),
        ("edu", None),
        ("idio-pair-2.0", "0x12.0"),
        ("idio-pair-2.1", "0x12.1"),
    ]
    assert len({one["socket"]["path"] for one in devices}) == len(devices)


def test_run_with_a_kernel_of_one_s_own_adds_no_other_and_no_console(run: Run, qemu: Path) -> None:
    assert run("run", "edu", "--", "-kernel", "mine", "-accel", "tcg").returncode == 0
    words = told()
    assert words.count("-kernel") == 1
    assert "-serial" not in words
    assert words.count("-accel") == 1


def test_run_that_is_told_to_stop_stops_qemu_and_removes_everything(
    qemu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOES", "echo up; exec sleep 100")
    command = [*COMMAND, "run", "edu", "--guest", "none", "--", "-accel", "tcg"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        folder = Path(json.loads(told()[told().index("-device") + 1])["socket"]["path"]).parent
        assert folder.stat().st_mode & 0o777 == 0o700
        process.terminate()
        process.communicate(timeout=SECONDS)
    assert process.returncode == 128 + signal.SIGTERM
    assert not folder.exists()


def test_run_takes_qemu_with_it_when_it_is_killed(qemu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOES", "echo $$; exec sleep 100")
    command = [*COMMAND, "run", "edu", "--guest", "none", "--", "-accel", "tcg"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        folder = Path(json.loads(told()[told().index("-device") + 1])["socket"]["path"]).parent
        process.kill()
    deadline = time.monotonic() + SECONDS
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(pid)
    shutil.rmtree(folder)  # nobody else is left to do it


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("run", "nonsense"), "there is no device nonsense"),
        (("run",), "Missing argument 'DEVICE...'"),
        (("run", "edu", "--topology", "nonsense"), "there is no topology 'nonsense'"),
        (("run", "edu", "--set", "speed=1"), "--set speed: no device of this run (edu) has that"),
    ],
)
def test_run_that_cannot_be_exits_2(run: Run, qemu: Path, words: tuple[str, ...], text: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert text in done.stderr
    assert not Path("words").exists()


def test_run_without_a_qemu_that_will_do_exits_2(run: Run, qemu: Path) -> None:
    qemu.write_text("#!/bin/sh\necho QEMU emulator version 7.2.0\n")
    done = run("run", "edu", "--guest", "none")
    assert done.returncode == 2
    assert "older than 10.1" in done.stderr


def test_settings_go_to_the_devices_that_have_them() -> None:
    wanted = assign(
        ["testdev", "edu", "testdev"], [("mappable", "no"), ("testdev-2.mappable", "yes"), ("edu.dma-mask", "1")]
    )
    assert [(one.name, one.options) for one in wanted] == [
        ("testdev", {"mappable": "no"}),
        ("edu", {"dma-mask": "1"}),
        ("testdev-2", {"mappable": "yes"}),
    ]


@pytest.mark.parametrize("key", ["speed", "edu.mappable", "other.dma-mask"])
def test_settings_that_no_device_takes_are_an_error(key: str) -> None:
    with pytest.raises(UsageError, match=key):
        assign(["edu"], [(key, "1")])


def test_what_qemu_s_words_bring() -> None:
    assert brings_boot_medium(["-m", "1G", "-drive", "file=x"])
    assert brings_boot_medium(["--kernel", "x"])
    assert not brings_boot_medium(["-m", "1G", "-device", "edu"])
    assert has_console(["-nographic"])
    assert not has_console(["-name", "serial"])


@pytest.mark.parametrize(("name", "legal"), [("gpio-idio-16", "gpio-idio-16"), ("8139", "dev-8139"), ("a/b", "a-b")])
def test_ids_are_legal_for_qemu(name: str, legal: str) -> None:
    assert qemu_id(name) == legal


def shell(*words: str, typed: str) -> subprocess.CompletedProcess[str]:
    """Runs `vfuserver run` and types into the guest's shell once it is there."""
    command = [*COMMAND, "run", *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        seen = ""
        while not seen.endswith("ends QEMU.\n"):
            line = process.stdout.readline()
            assert line, seen
            seen += line.replace("\r", "")
        out, _ = process.communicate(typed, timeout=120)
    return subprocess.CompletedProcess(command, process.returncode, seen + out)


@pytest.mark.guest
@pytest.mark.parametrize(
    ("topology", "address"), [("q35-shared", "00:01.0"), ("q35-nofds", "00:01.0"), ("q35-hotplug", "01:00.0")]
)
def test_run_boots_the_stock_guest_to_a_shell(environment: None, topology: str, address: str) -> None:
    done = shell("edu", "--topology", topology, typed=f"pcitool read {address} 0 0 4\nexit\n")
    assert done.returncode == 0
    assert f"0000:{address} 1234:11e8" in done.stdout
    assert "0x010000ed" in done.stdout


@pytest.mark.guest
@pytest.mark.parametrize(
    ("topology", "slot"), [("q35-shared", "00:10"), ("q35-nofds", "00:10"), ("q35-hotplug", "01:00")]
)
def test_run_boots_a_guest_with_every_function_of_a_card(environment: None, topology: str, slot: str) -> None:
    """Behind a root port, too; from one function to the other."""
    typed = f"pcitool write {slot}.0 2 0 1 0x5a; echo read $(pcitool read {slot}.1 2 1 1)\nexit\n"
    done = shell("idio-pair", "--topology", topology, typed=typed)
    assert done.returncode == 0
    assert f"0000:{slot}.0 494f:0dc8" in done.stdout
    assert f"0000:{slot}.1 494f:0dc8" in done.stdout
    assert "read 0x5a" in done.stdout


@pytest.mark.guest
def test_run_loads_the_modules_asked_for(environment: None) -> None:
    words = ("gpio-idio-16", "--set", "loopback=yes", "--module", "gpio-pci-idio-16")
    done = shell(*words, typed="echo bound to $(basename $(readlink /sys/bus/pci/devices/0000:00:01.0/driver))\nexit\n")
    assert done.returncode == 0
    assert "494f:0dc8 pci-idio-16" in done.stdout
    assert "bound to pci-idio-16" in done.stdout
