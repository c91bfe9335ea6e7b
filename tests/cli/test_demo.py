"""`vfuserver demo`: the whole of it, and how a step is judged."""

from pathlib import Path

import pytest

from tests.cli.conftest import Run
from vfuserver.cli._demo_steps import DEVICES, STEPS, Step
from vfuserver.cli.demo import _missing
from vfuserver.guest import CompletedCommand

BROKEN = """#!/bin/sh
case "$*" in
    --version) echo "QEMU emulator version 11.1.3" ;;
    "-device help") echo 'name "vfio-user-pci"' ;;
    *) echo "this machine is out of order"; exit 1 ;;
esac
"""

STEP = Step("a step", "true", (r"^one$", r"two \d"))


@pytest.mark.parametrize(
    ("output", "code", "missing"),
    [
        (b"one\r\nand two 2\n", 0, []),
        (b"one\n", 0, ["no line matches two \\d"]),
        (b"", 3, ["no line matches ^one$", "no line matches two \\d", "the script ended with 3"]),
    ],
)
def test_a_step_holds_if_every_line_is_there_and_the_script_ends_well(
    output: bytes, code: int, missing: list[str]
) -> None:
    assert _missing(CompletedCommand("true", output, code), STEP) == missing


@pytest.mark.guest
def test_demo_shows_what_the_guest_saw_and_exits_0(run: Run) -> None:
    done = run("demo", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    guest = [line.partition("guest| ")[2] for line in done.stdout.splitlines() if "guest| " in line]
    assert any(line.startswith("Linux ") for line in guest)
    for expected in ("pci-idio-16 bound, by the stock module gpio_pci_idio_16", "10! = 3628800", "MSI received 2"):
        assert expected in guest
    assert any(line.startswith("DMA verified 4096 bytes at IOVA") for line in guest)
    assert any("vfio-msi[0]" in line for line in guest)
    assert all(f"  {name}" in done.stdout for name in DEVICES)
    assert done.stdout.count("held, ") == len(STEPS)
    assert "Everything held" in done.stdout.splitlines()[-1]


@pytest.mark.guest
def test_demo_exits_1_and_says_why_when_the_guest_does_not_boot(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "qemu-system-x86_64"
    broken.write_text(BROKEN)
    broken.chmod(0o755)
    monkeypatch.setenv("VFUSERVER_QEMU", str(broken))
    monkeypatch.setenv("VFUSERVER_ACCEL", "tcg")
    done = run("demo", timeout=600)
    assert done.returncode == 1
    assert "The guest failed: " in done.stderr
    assert "this machine is out of order" in done.stderr
    assert f"{len(STEPS)} of {len(STEPS)} steps did NOT hold" in done.stdout
