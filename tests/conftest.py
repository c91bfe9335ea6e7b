"""What every test gets: a report header that says what was tested, and a count of descriptors and mappings."""

import platform
from collections.abc import Iterator
from importlib.metadata import version

import pytest
import uvloop

from tests.leaks import nothing_left_behind


def pytest_report_header() -> list[str]:
    """Loop, kernel, QEMU: what the results hold for."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("vfuserver", "uvloop", "construct"))
    return [f"{versions}, kernel {platform.release()}"]


def pytest_sessionstart() -> None:
    """libuv makes one pipe for the whole process with its first loop: before anything is counted."""
    uvloop.new_event_loop().close()


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Every descriptor and every memfd mapping that a test makes is gone when it ends."""
    with nothing_left_behind():
        yield
