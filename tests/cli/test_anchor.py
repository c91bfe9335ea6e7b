"""What stays of a server that was replaced: it passes signals on, has orphans, and ends as the last of them."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vfuserver.cli import _anchor

SECONDS = 20.0
FIRST = f"""
import os, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1}})
os.execv(sys.executable, [sys.executable, "-I", "-S", {_anchor.__file__!r}])
"""
SAYS = "import os, signal, sys, time; print(os.getpid(), flush=True); "


@contextmanager
def anchored(code: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that has become the anchor of a child, which runs `code`; the child's pid."""
    with subprocess.Popen([sys.executable, "-c", FIRST, SAYS + code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.wait(SECONDS)


@pytest.mark.parametrize("code", [0, 3])
def test_anchor_ends_with_its_childs_code(code: int) -> None:
    with anchored(f"sys.exit({code})") as (process, _):
        pass
    assert process.returncode == code


def test_anchor_passes_a_signal_on_and_ends_as_the_child_did() -> None:
    with anchored("time.sleep(60)") as (process, _):
        process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM


def test_anchor_waits_for_a_child_of_its_child() -> None:
    """The second replacement: who took over first ends, its successor is the anchor's then, and hears its signals."""
    ends_with_7 = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    grandchild = f"import signal, sys; {ends_with_7}; print(flush=True); signal.pause()"
    code = f"import subprocess; subprocess.Popen([sys.executable, '-c', {grandchild!r}])"
    with anchored(code) as (process, child):
        assert process.stdout is not None
        process.stdout.readline()
        while Path(f"/proc/{child}").exists():
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 7


def test_anchor_tells_who_comes_after_the_one_that_was_told() -> None:
    """The signal meets a server that has just handed over and does not listen any more."""
    ends_with_7 = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    grandchild = f"import signal, sys; {ends_with_7}; print(flush=True); signal.pause()"
    deaf = "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    code = f"{deaf}; subprocess.Popen([sys.executable, '-c', {grandchild!r}]); time.sleep(0.3)"
    with anchored(code) as (process, _):
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 7


def test_anchor_needs_little_memory() -> None:
    with anchored("sys.stdin.read()") as (process, _):
        status = Path(f"/proc/{process.pid}/status").read_text()
        (rss,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")]
        assert rss < 20_000, "kB; a server has more than 40 000"
        process.send_signal(signal.SIGTERM)
