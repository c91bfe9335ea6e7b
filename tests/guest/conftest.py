"""A cache folder and an environment of a test's own."""

from pathlib import Path

import pytest

VARIABLES = (
    "VFUSERVER_QEMU",
    "VFUSERVER_GUEST_KERNEL",
    "VFUSERVER_GUEST_MODULES",
    "VFUSERVER_VFIO_KERNEL",
    "VFUSERVER_DEBIAN_MIRROR",
    "VFUSERVER_ACCEL",
)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and none of the variables that would bypass it."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "cache"
    monkeypatch.setenv("VFUSERVER_CACHE", str(folder))
    return folder
