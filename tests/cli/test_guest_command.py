"""`vfuserver guest show`: what would be used, without fetching anything."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.fixture
def empty_cache(tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("VFUSERVER_CACHE", str(folder))
    monkeypatch.setenv("PATH", "/nowhere")
    return folder


@pytest.mark.parametrize("words", [("guest",), ("guest", "show")])
def test_guest_show_with_nothing_here_says_how_to_get_it(run: Run, empty_cache: Path, words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 0
    rows = [line.split(None, 2) for line in done.stdout.splitlines()]
    assert ["QEMU", "-", "`vfuserver guest fetch` gets it"] in rows
    assert not empty_cache.exists()


def test_guest_show_json_says_what_variables_name(
    run: Run, empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vmlinuz").touch()
    (tmp_path / "7.2.0").mkdir()
    monkeypatch.setenv("VFUSERVER_GUEST_KERNEL", "vmlinuz")
    monkeypatch.setenv("VFUSERVER_GUEST_MODULES", "7.2.0")
    parts = {part["name"]: part for part in json.loads(run("guest", "show", "--json").stdout)}
    assert parts["stock kernel 7.2.0"]["where"] == str(tmp_path / "vmlinuz")


def test_guest_show_of_a_variable_that_names_nothing_exits_2(
    run: Run, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VFUSERVER_QEMU", "/nowhere/qemu-system-x86_64")
    done = run("guest", "show")
    assert done.returncode == 2
    assert "VFUSERVER_QEMU is /nowhere/qemu-system-x86_64" in done.stderr


@pytest.mark.guest
def test_guest_fetch_has_everything_afterwards(run: Run) -> None:
    parts = json.loads(run("guest", "fetch", "--json", timeout=600).stdout)
    assert [part["name"].split()[0] for part in parts] == ["QEMU", "stock", "busybox", "pciutils"]
    assert all(Path(part["where"]).exists() for part in parts)
