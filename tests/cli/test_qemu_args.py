"""`vfuserver qemu-args DEVICE SOCKET`: words for a QEMU that need not be here."""

import json
import shlex
from pathlib import Path

from tests.cli.conftest import Run


def test_qemu_args_are_one_line_for_a_shell(run: Run, tmp_path: Path, monkeypatch: object) -> None:
    done = run("qemu-args", "edu", "edu.sock")
    assert done.stdout.count("\n") == 1
    words = shlex.split(done.stdout)
    device = json.loads(words[words.index("-device") + 1])
    assert device["driver"] == "vfio-user-pci"
    assert device["socket"] == {"type": "unix", "path": str(tmp_path / "edu.sock")}
    assert "memory-backend-memfd,id=ram,size=512M,share=on" in words


def test_qemu_args_json_are_the_same_words(run: Run) -> None:
    words = json.loads(run("qemu-args", "edu", "my sock", "--json").stdout)
    assert words == shlex.split(run("qemu-args", "edu", "my sock").stdout)


def test_qemu_args_follow_the_topology(run: Run) -> None:
    words = json.loads(run("qemu-args", "testdev", "t.sock", "--topology", "q35-hotplug", "--json").stdout)
    assert json.loads(words[words.index("-device", words.index("-device") + 8) + 1])["bus"] == "port0"


def test_qemu_args_of_a_topology_with_a_relay_exit_2(run: Run) -> None:
    done = run("qemu-args", "edu", "edu.sock", "--topology", "q35-nofds")
    assert done.returncode == 2
    assert "vfuserver run" in done.stderr


def test_qemu_args_do_not_need_qemu_nor_any_cache(run: Run, tmp_path: Path) -> None:
    done = run("qemu-args", "edu", "edu.sock", env={"PATH": "/nowhere", "HOME": str(tmp_path)})
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []
