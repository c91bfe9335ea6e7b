"""SIGBUS beside other handlers: ours are served, everything else goes to whoever was there before (S1.12).

Each test runs a program of its own, which may die.
"""

import os
import signal
import subprocess
import sys
from typing import Final

import pytest

PRELUDE: Final = """
import ctypes, faulthandler, mmap, os, signal, sys
from vfuserver import _core
from vfuserver.errors import DmaError

PAGE, ioas = 4096, _core.Ioas()

def file(size):
    fd = os.memfd_create("bus")
    os.ftruncate(fd, size)
    return fd

def mapped(at):
    fd = file(4 * PAGE)
    ioas.map(at, 4 * PAGE, 3, fd)
    return fd

def refused(call):
    try:
        call()
    except DmaError as error:
        return error.errno == 14
    return False

def fault_elsewhere():
    fd = file(PAGE)
    memory = mmap.mmap(fd, PAGE)
    os.ftruncate(fd, 0)
    memory[0]
"""
ASAN: Final = "handle_sigbus=0:handle_segv=0:handle_abort=0"
"""Under a sanitizer, whoever was there before is to be nobody, as without."""


def run(program: str) -> subprocess.CompletedProcess[str]:
    options = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), ASAN]))
    environment = {**os.environ, "ASAN_OPTIONS": options}
    command = [sys.executable, "-c", PRELUDE + program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


ENABLE: Final = "faulthandler.enable()\n"
COPY: Final = "fd = mapped({at}); {enable}os.ftruncate(fd, 0); assert refused(lambda: ioas.read({at}, 4 * PAGE))\n"
VIEW: Final = (
    "fd = mapped({at}); pin = _core.Pin(ioas, {at}, 4 * PAGE, 3); view = memoryview(pin); {enable}"
    "os.ftruncate(fd, 0); assert view[PAGE] == 0 and not pin.valid\n"
)


@pytest.mark.parametrize("touch", [COPY, VIEW], ids=["copy", "view"])
@pytest.mark.parametrize("before", ["", ENABLE], ids=["", "enabled before"])
@pytest.mark.parametrize("after", ["", ENABLE.strip() + "; "], ids=["", "enabled after"])
def test_faulthandler_does_not_matter(touch: str, before: str, after: str) -> None:
    """Three faults in a row, each of a new file; faulthandler put over our handler before each."""
    program = before + "".join(touch.format(at=at << 20, enable=after) for at in range(3))
    done = run(program + "print('alive')")
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
    if not after:
        assert done.stderr == ""


OURS: Final = "os.ftruncate(mapped(0), 0); assert refused(lambda: ioas.read(0, PAGE))\n"


@pytest.mark.parametrize("live_view", ["", "fd = mapped(1 << 20); pin = _core.Pin(ioas, 1 << 20, PAGE, 3)\n"])
@pytest.mark.parametrize("before", ["", ENABLE], ids=["", "enabled before"])
@pytest.mark.parametrize("after", ["", ENABLE], ids=["", "enabled after"])
def test_fault_that_is_not_ours_kills(before: str, after: str, live_view: str) -> None:
    """And faulthandler, wherever it was put, tells where."""
    done = run(before + OURS + live_view + after + "fault_elsewhere(); print('alive')")
    assert (done.returncode, done.stdout) == (-signal.SIGBUS, "")
    if before or after:
        assert "Fatal Python error: Bus error" in done.stderr
        assert "in fault_elsewhere" in done.stderr


@pytest.mark.parametrize("sent", ["os.kill(os.getpid(), signal.SIGBUS)", "signal.raise_signal(signal.SIGBUS)"])
@pytest.mark.parametrize("before", ["", ENABLE], ids=["", "faulthandler"])
def test_signal_that_somebody_sent_kills(before: str, sent: str) -> None:
    """It has no address; the second time because the first may be the end of a handler above ours."""
    assert run(before + OURS + sent).returncode == -signal.SIGBUS
    view = "fd = mapped(1 << 20); pin = _core.Pin(ioas, 1 << 20, PAGE, 3)\n"
    assert run(before + OURS + view + f"{sent}\n{sent}").returncode == -signal.SIGBUS


FORMER: Final = """
@ctypes.CFUNCTYPE(None, ctypes.c_int)
def former(number):
    os._exit(40 + number)

ctypes.CDLL(None).signal(signal.SIGBUS, former)
"""


@pytest.mark.parametrize("event", ["fault_elsewhere()", "os.kill(os.getpid(), signal.SIGBUS)"])
def test_former_handler_gets_what_is_not_ours(event: str) -> None:
    done = run(FORMER + OURS + event)
    assert done.returncode == 40 + signal.SIGBUS, done.stderr


def test_ignored_signal_stays_ignored_unless_it_is_a_fault() -> None:
    ignore = "signal.signal(signal.SIGBUS, signal.SIG_IGN)\n"
    assert run(ignore + OURS + "os.kill(os.getpid(), signal.SIGBUS); print('alive')").stdout == "alive\n"
    assert run(ignore + OURS + "fault_elsewhere()").returncode == -signal.SIGBUS


def test_handler_is_installed_with_the_first_mapping_only() -> None:
    program = """
def caught():
    lines = open("/proc/self/status").read().splitlines()
    mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(mask >> (signal.SIGBUS - 1) & 1)

ioas.map(1 << 30, PAGE, 3)
before = caught()
mapped(0)
print(before, caught())
"""
    assert run(program).stdout == "False True\n"
