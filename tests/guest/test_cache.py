"""The cache: whole or not at all, once, and continued after an interruption."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from vfuserver.guest.cache import cache_dir, digest, locked, make_once, remembered, write_once
from vfuserver.guest.errors import ToolError


def test_cache_dir_without_its_variable_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VFUSERVER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/vfuserver")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache/vfuserver"


def test_make_once_interrupted_continues_with_its_scratch_and_an_empty_result(empty_cache: Path) -> None:
    def interrupted(scratch: Path, result: Path) -> None:
        (scratch / "downloaded").write_text("half")
        (result / "unpacked").write_text("half")
        raise KeyboardInterrupt

    def second(scratch: Path, result: Path) -> None:
        assert (scratch / "downloaded").read_text() == "half"
        assert not list(result.iterdir())
        (result / "file").write_text("whole")

    with pytest.raises(KeyboardInterrupt):
        make_once("suite/thing", interrupted)
    assert not (empty_cache / "suite/thing").exists()
    assert (make_once("suite/thing", second) / "file").read_text() == "whole"
    assert not (empty_cache / "partial/suite/thing").exists()


def test_make_once_of_something_that_is_there_makes_nothing(empty_cache: Path) -> None:
    (empty_cache / "thing").mkdir(parents=True)
    assert make_once("thing", lambda scratch, result: pytest.fail("made again")) == empty_cache / "thing"


def test_lock_keeps_another_process_out_until_it_is_released(empty_cache: Path) -> None:
    program = "from vfuserver.guest.cache import locked\nwith locked('thing'): print('inside')"
    with locked("thing"):
        other = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert other.stderr is not None
        assert other.stderr.readline() == "vfuserver: waiting for another process that prepares thing\n"
        assert other.poll() is None
    assert other.communicate(timeout=30)[0] == "inside\n"


def test_file_without_room_is_said_and_leaves_nothing(empty_cache: Path) -> None:
    """A file of more than 4096 bytes is refused here as on a full disk: in the middle."""
    path = write_once(empty_cache / "tools/small", lambda: bytes(4096))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ToolError, match=r"cannot write .*/tools/big \(0\.2 MB\): File too large .*VFUSERVER_CACHE"):
            write_once(empty_cache / "tools/big", lambda: bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(path.parent.iterdir()) == [path]


def test_folder_that_cannot_be_made_is_said(empty_cache: Path) -> None:
    empty_cache.write_text("a file where the cache should be")
    with pytest.raises(ToolError, match=r"cannot write .*/tools/one \(0\.0 MB\): Not a directory"):
        write_once(empty_cache / "tools/one", lambda: b"one")


def test_write_once_writes_with_its_mode_and_only_once(empty_cache: Path) -> None:
    path = write_once(empty_cache / "tools/tool", lambda: b"first", mode=0o755)
    write_once(path, lambda: b"second")
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o755
    assert [entry.name for entry in path.parent.iterdir()] == ["tool"]


def test_digest_of_parts_depends_on_where_they_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"ab")
    assert digest([b"ab", b"c"]) != digest([b"a", b"bc"])
    assert digest([tmp_path / "file", b"c"]) == digest([b"ab", b"c"])


def test_remembered_asks_again_only_for_another_key(empty_cache: Path) -> None:
    answers = iter(["one", "two"])
    assert remembered("kvm", "boot-1", lambda: next(answers)) == "one"
    assert remembered("kvm", "boot-1", lambda: next(answers)) == "one"
    assert remembered("kvm", "boot-2", lambda: next(answers)) == "two"
