"""What every test gets: a report header that says what was tested, and a count of descriptors and mappings."""

import platform
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version

import pytest
import uvloop

from tests.engines import expect_differences
from tests.leaks import nothing_left_behind
from tests.lspci import Lspci, NoLspciError, decode, find_lspci


def _qemu(config: pytest.Config) -> str:
    """What guests will run in; looked for (and fetched once) only if there are to be guests."""
    if config.option.markexpr == "not guest":
        return "no guests in this run"
    from vfuserver.guest import ObtainError, find_kernel, find_qemu
    from vfuserver.guest.accel import choose_accel

    try:
        qemu, kernel = find_qemu(), find_kernel()
        return f"QEMU {qemu.version} ({qemu.origin}), {choose_accel(qemu, kernel)}, guest kernel {kernel.origin}"
    except ObtainError as error:
        return f"no QEMU: {error}"


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Loops, kernel, QEMU: what the results hold for."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("vfuserver", "uvloop", "construct"))
    return [f"{versions}; engine tests on uvloop and asyncio; kernel {platform.release()}", _qemu(config)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """VFUSERVER_TEST_ENGINE says what serves in many tests."""
    expect_differences(items)


def pytest_sessionstart() -> None:
    """libuv makes one pipe for the whole process with its first loop: before anything is counted."""
    uvloop.new_event_loop().close()


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Every descriptor and every memfd mapping that a test makes is gone when it ends."""
    with nothing_left_behind():
        yield


@pytest.fixture(scope="session")
def lspci(tmp_path_factory: pytest.TempPathFactory) -> Lspci:
    """lspci(dump, *options): what lspci says of a dump. Skips, with the reason, where none runs."""
    try:
        words = find_lspci()
    except NoLspciError as reason:
        pytest.skip(str(reason))
    return partial(decode, words, tmp_path_factory.mktemp("lspci"))
