"""The command as a whole: help, version, exit codes, what it imports, completion."""

import pkgutil
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import vfuserver.cli
from tests.cli.conftest import COMMAND, SECONDS, Run

COMMANDS = sorted(
    module.name.replace("_", "-")
    for module in pkgutil.iter_modules(vfuserver.cli.__path__)
    if not module.name.startswith("_")
)
NEEDED_BY_CLIENTS = (
    "construct",
    "email",
    "importlib.metadata",
    "tomllib",
    "vfuserver.client",
    "vfuserver.device.describe",
    "vfuserver.engine.unix_socket",
    "vfuserver.guest",
    "vfuserver.pci.caps.pci_express",
    "vfuserver.pci.describe",
    "vfuserver.session.command",
    "vfuserver.session.connection",
    "vfuserver.session.session",
    "vfuserver.wire",
)
"""What a server that listens has not imported yet, or never does."""
HEAVY = ("asyncio", "construct", "uvloop", "vfuserver.session", "vfuserver._core")


def test_help_lists_every_command(run: Run) -> None:
    done = run("--help")
    assert done.returncode == 0
    assert {"serve", "run", "list", "describe", "probe", "qemu-args", "demo", "guest"} <= set(COMMANDS)
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def test_help_imports_nothing_heavy(run: Run) -> None:
    script = (
        "import sys, vfuserver, vfuserver.cli\n"
        "try: vfuserver.cli.main(['--help'])\n"
        f"except SystemExit: print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_serve_imports_nothing_for_clients_before_it_is_ready(tmp_path: Path) -> None:
    script = (
        "import os, sys, vfuserver.cli\n"
        "class Stdout:\n"
        "    def write(self, text):\n"
        f"        if 'ready edu' in text: print(sorted({{*sys.modules}} & {{*{NEEDED_BY_CLIENTS}}}), file=sys.stderr)\n"
        "    def flush(self): os.kill(os.getpid(), 15)\n"
        "sys.stdout = Stdout()\n"
        f"vfuserver.cli.main(['serve', 'edu', '--socket', {str(tmp_path / 'edu.sock')!r}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=SECONDS)
    assert done.stderr.strip() == "[]"


def test_what_serve_imports_later_is_called_so(run: Run) -> None:
    for name in NEEDED_BY_CLIENTS:
        assert find_spec(name) is not None, name


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_shows_every_option_and_an_example(run: Run, name: str) -> None:
    from vfuserver.cli._root import root

    done = run(name, "--help")
    command = root.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert done.returncode == 0
    assert "Example" in done.stdout
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    for parameter in shown:
        for option in parameter.opts:
            assert option.lstrip("-") in done.stdout.replace("\n", " ").lower().replace("...", "") or (
                parameter.human_readable_name in done.stdout
            )


def test_version_is_the_package_s(run: Run) -> None:
    from importlib.metadata import version

    assert run("--version").stdout == f"vfuserver {version('vfuserver')}\n"


def test_no_command_shows_help_and_exits_2(run: Run) -> None:
    done = run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Commands:" in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("nonsense",), "No such command 'nonsense'"),
        (("list", "--nonsense"), "No such option"),
        (("describe",), "Missing argument 'DEVICE'"),
        (("describe", "nonsense"), "there is no device nonsense: there are edu,"),
        (("describe", "edu", "--set", "nonsense"), "must be KEY=VALUE, not 'nonsense'"),
        (("describe", "edu", "--set", "name=x"), "edu has no option name; it has dma-mask"),
        (("qemu-args", "edu", "x.sock", "--topology", "nonsense"), "there is no topology 'nonsense'; there are"),
        (("probe", "no.sock", "--timeout", "soon"), "'soon' is not a valid float"),
    ],
)
def test_what_was_asked_wrongly_exits_2_and_says_why(run: Run, words: tuple[str, ...], text: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "vfuserver: error: " in done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(run: Run) -> None:
    done = run("--debug", "describe", "nonsense")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(("shell", "word"), [("bash", "complete"), ("zsh", "#compdef"), ("fish", "complete")])
def test_completion_prints_the_shell_s_script(run: Run, shell: str, word: str) -> None:
    done = run("completion", shell)
    assert done.returncode == 0
    assert word in done.stdout
    assert "_VFUSERVER_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("typed", "position", "expected"),
    [
        ("vfuserver qe", 1, "qemu-args"),
        ("vfuserver serve te", 2, "testdev"),
        ("vfuserver run edu --topology q35-v", 4, "q35-viommu"),
    ],
)
def test_completion_knows_commands_devices_and_topologies(
    run: Run, monkeypatch: pytest.MonkeyPatch, typed: str, position: int, expected: str
) -> None:
    monkeypatch.setenv("_VFUSERVER_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(position))
    assert f"plain,{expected}" in run().stdout.splitlines()


def test_ctrl_c_ends_with_130_and_no_traceback(environment: None, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute.sock"))
        mute.listen()
        command = [*COMMAND, "probe", "mute.sock"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            connected, _ = mute.accept()
            with connected:
                connected.recv(100)
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err


def test_output_that_nobody_reads_is_no_traceback(environment: None) -> None:
    words = f"{sys.executable} -m vfuserver describe testdev --json | head -c 1"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stderr == ""
