"""The file of `vfuserver save`: whole or not there, and checked before anything is done with it."""

import resource
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from vfuserver.cli._saved_file import NewFile, SavedFile, SavedFileError
from vfuserver.cli._shape import differences
from vfuserver.errors import UsageError
from vfuserver.vfio import MigrationState

IDS = {"vendor": 0x1234, "device": 1, "revision": 2, "class_code": 0xFF0000, "subsystem_vendor": 3, "subsystem": 4}
SHAPE = {"pci": IDS, "regions": {"BAR0": 4096}, "irqs": {"MSIX": 8}}
ABOUT = {"shape": SHAPE, "state": "STOP", "flags": ["STOP_COPY"]}
STREAM = bytes(range(256)) * 20


def written(path: Path, stream: bytes = STREAM) -> Path:
    with NewFile(path, ABOUT) as new:
        for at in range(0, len(stream), 1000):
            new.write(stream[at : at + 1000])
        new.finish()
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    saved = SavedFile.read(written(tmp_path / "state"))
    assert (saved.shape, saved.state, saved.flags) == (SHAPE, MigrationState.STOP, ["STOP_COPY"])
    assert saved.size == len(STREAM)
    assert b"".join(saved.chunks()) == STREAM


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    """A device's state may hold a guest's secrets."""
    assert written(tmp_path / "state").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("change", ["flip", "cut", "extend"])
def test_every_change_of_it_is_found(tmp_path: Path, change: str) -> None:
    """S3.15: for the file around the stream."""
    path = written(tmp_path / "state", STREAM[:40])
    whole = path.read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        if change == "flip":
            damaged[at] ^= 0x10
        elif change == "cut":
            del damaged[at:]
        else:
            damaged += bytes(at + 1)
        path.write_bytes(damaged)
        with pytest.raises(SavedFileError, match=str(path)):
            SavedFile.read(path)


@pytest.mark.parametrize("about", [{}, {**ABOUT, "state": "ASLEEP"}, {**ABOUT, "shape": 7}, {**ABOUT, "flags": None}])
def test_nonsense_about_the_device_is_refused(tmp_path: Path, about: dict[str, object]) -> None:
    path = tmp_path / "state"
    with NewFile(path, about) as new:
        new.finish()
    with pytest.raises(SavedFileError, match="makes no sense"):
        SavedFile.read(path)


def test_an_unfinished_file_is_removed_and_the_old_one_stays(tmp_path: Path) -> None:
    path = written(tmp_path / "state")
    before = path.read_bytes()
    with NewFile(path, ABOUT, replace=True) as new:
        new.write(b"other")
    assert [one.name for one in tmp_path.iterdir()] == ["state"]
    assert path.read_bytes() == before


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = written(tmp_path / "state")
    with pytest.raises(UsageError, match="--force"):
        NewFile(path, ABOUT)
    with NewFile(path, ABOUT, replace=True) as new:
        new.finish()
    assert SavedFile.read(path).size == 0


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the size of files fails as a full disk does; data go out with `finish` at the latest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(SavedFileError, match="File too large"):
            written(tmp_path / "state")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not [*tmp_path.iterdir()]


def test_a_missing_file_and_folder_are_errors_of_ours(tmp_path: Path) -> None:
    with pytest.raises(SavedFileError, match="No such file"):
        SavedFile.read(tmp_path / "state")
    with pytest.raises(SavedFileError, match="No such file"):
        NewFile(tmp_path / "nowhere" / "state", ABOUT)


def test_differences_name_each_thing_with_both_values() -> None:
    other = {"pci": {**IDS, "device": 0xBEEF}, "regions": {"BAR0": 8192, "BAR2": 256}, "irqs": {}}
    assert differences(SHAPE, SHAPE) == []
    assert differences(SHAPE, other) == [
        "device is beef, must be 0001",
        "BAR0 is 8 KiB, must be 4 KiB",
        "MSIX is absent, must be 8 vectors",
        "BAR2 is 256 bytes, must be absent",
    ]
    assert "vendor is absent, must be 1234" in differences(SHAPE, {**SHAPE, "pci": None})


def test_show_prints_what_the_file_says(run: Run, tmp_path: Path) -> None:
    lines = run("show", written(tmp_path / "state")).stdout.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'state'}: {len(STREAM)} bytes of state, CRC-32 ")
    assert lines[1] == "Saved while STOP, by a server that offers STOP_COPY"
    assert ["class", "code", "ff0000"] in [line.split() for line in lines]
    assert ["MSIX", "8", "vectors"] in [line.split() for line in lines]


def test_show_of_something_else_exits_1(run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"something else")
    done = run("show", "other")
    assert done.returncode == 1
    assert done.stderr == "vfuserver: error: other is no file of `vfuserver save`: it must begin with VFUSAVED\n"
