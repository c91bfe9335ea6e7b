"""libvfio-user's sample programs, as processes: where they are, of what version, and servers among them that run.

LIBVFIO_USER_SAMPLES names the folder of samples with migration's version 2, LIBVFIO_USER_SAMPLES_V1 that of samples
with version 1 (from before its #782).
"""

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.interop.cells import LABEL, LABEL_V1, cell
from tests.interop.conftest import eventually

SAMPLES, SAMPLES_V1 = os.environ.get("LIBVFIO_USER_SAMPLES", ""), os.environ.get("LIBVFIO_USER_SAMPLES_V1", "")
version_2 = pytest.mark.skipif(not SAMPLES, reason="LIBVFIO_USER_SAMPLES does not name libvfio-user's samples")
version_1 = pytest.mark.skipif(
    not SAMPLES_V1, reason="LIBVFIO_USER_SAMPLES_V1 does not name libvfio-user's samples from before its #782"
)

SECONDS: Final = 10.0
ENDS_WITHIN: Final = 1.0
"""Seconds, for a server that refuses its own device."""
COLUMNS, ACCEPTS = 7, 1 << 16
"""Of /proc/net/unix before the path, and the flag of a socket that listens."""
SINCE_832: Final = re.compile(r"BAR region size \d+ must be a power of 2")

Start = Callable[..., Path]


def of_each_version(ours: str, peer: str, what: str) -> pytest.MarkDecorator:
    """`samples` is each folder that is named, in turn; a cell each."""
    first = pytest.param(SAMPLES, marks=(version_2, cell(ours, peer, what, LABEL)), id="version 2")
    second = pytest.param(SAMPLES_V1, marks=(version_1, cell(ours, peer, what, LABEL_V1)), id="version 1")
    return pytest.mark.parametrize("samples", [first, second])


@cache
def ends_at_once(program: Path) -> str:
    """Why a server of this build does so, after it has made its socket; nothing if it serves."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(program), f"{folder}/socket"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, text=True) as process:
            try:
                process.wait(ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                return ""
            return process.communicate()[1].strip()


def listens(path: Path) -> bool:
    """Whether clients can connect already: a socket is there before that."""
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    return any(row[-1] == str(path) and int(row[3], 16) & ACCEPTS for row in rows if len(row) > COLUMNS)


@contextmanager
def servers(folder: Path) -> Iterator[Start]:
    """start(samples, "a", "server", ...) starts a sample program and returns its socket; it is killed at the end.

    The test is expected to fail where the program refuses its own device.
    """
    running: list[subprocess.Popen[str]] = []

    def start(samples: str, name: str, program: str, *words: str) -> Path:
        if why := ends_at_once(Path(samples) / program):
            refused = SINCE_832.search(why)
            assert refused, f"{program} ends at once: {why}"
            pytest.xfail(f"its #832: this {program} refuses its own BAR1 and ends: {refused[0]}")
        path = folder / name
        command = [str(Path(samples) / program), *words, str(path)]
        pipe = subprocess.PIPE  # null ends with its stdin
        process = subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, text=True)
        running.append(process)
        assert eventually(lambda: listens(path), SECONDS)
        return path

    try:
        yield start
    finally:
        for process in running:
            process.kill()
            process.communicate(timeout=SECONDS)
