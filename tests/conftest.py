"""What every test gets: a report header that says what was tested, and a count of descriptors and mappings."""

import gc
import os
import platform
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import uvloop


def pytest_report_header() -> list[str]:
    """Loop, kernel, QEMU: what the results hold for."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("vfuserver", "uvloop", "construct"))
    return [f"{versions}, kernel {platform.release()}"]


def pytest_sessionstart() -> None:
    """libuv makes one pipe for the whole process with its first loop: before anything is counted."""
    uvloop.new_event_loop().close()


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the descriptor of this very listing
    return found


def _mappings() -> Counter[str]:
    """Mappings of memfds: guest memory and BARs. Libraries may map what they like."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return Counter(line.split(maxsplit=5)[5] for line in lines if "/memfd:" in line)


def _leaked(fds: dict[str, str], maps: Counter[str]) -> list[str]:
    """What there is now and was not before."""
    new = [f"descriptor {fd} -> {what}" for fd, what in _descriptors().items() if fds.get(fd) != what]
    return new + [f"mapping of {what}" for what in (_mappings() - maps).elements()]


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Every descriptor and every memfd mapping that a test makes is gone when it ends."""
    fds, maps = _descriptors(), _mappings()
    yield
    if _leaked(fds, maps):
        gc.collect()  # what only a cycle keeps alive is not lost; collecting after every test would be slow
        assert not _leaked(fds, maps)
