"""What every test gets: a report header that says what was tested, and a count of descriptors and mappings."""

import gc
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest


def pytest_report_header() -> list[str]:
    """Loop, kernel, QEMU: what the results hold for."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("vfuserver", "uvloop", "construct"))
    return [f"{versions}, kernel {platform.release()}"]


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor of this very listing
    return found


def _mappings() -> list[str]:
    """Mappings of memfds: guest memory and BARs. Libraries may map what they like."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted(line.split(maxsplit=5)[5] for line in lines if "/memfd:" in line)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Every descriptor and every memfd mapping that a test makes is gone when it ends."""
    gc.collect()
    fds, maps = _descriptors(), _mappings()
    yield
    gc.collect()
    leaked = {fd: what for fd, what in _descriptors().items() if fds.get(fd) != what}
    assert not leaked, f"descriptors leaked: {leaked}"
    assert _mappings() == maps, "mappings leaked"
