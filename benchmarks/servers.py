"""The servers that are measured, each a process of its own: ours, and libvfio-user's where LIBVFIO_USER_SO names it.

It must not know what is measured.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import click

from vfuserver.cli.serve import command as serve_command

IN_C: Final = "libvfio-user, C callback"
IN_PYTHON: Final = "libvfio-user, Python callback by cffi"
AS_ENGINE: Final = "vfuserver serve --engine libvfio-user"
HERE: Final = Path(__file__).parent

Words = Sequence[object]


def library() -> str | None:
    """The file of libvfio-user that is to be compared with."""
    return os.environ.get("LIBVFIO_USER_SO")


def has_cffi() -> bool:
    """Whether Python can use the library at all."""
    return importlib.util.find_spec("cffi") is not None


def peers(folder: Path, socket: str, mode: Literal["sleep", "poll"]) -> dict[str, tuple[Words, Path]]:
    """What starts each server on libvfio-user's own API that can be here, and its socket; none without the library."""
    named = library()
    if named is None:
        return {}
    paths = [folder / f"{socket}-{language}.sock" for language in ("c", "python")]
    found: dict[str, tuple[Words, Path]] = {IN_C: ([compiled("libvfio_user", folder), named, paths[0], mode], paths[0])}
    if has_cffi():
        words = [sys.executable, "-m", "benchmarks.libvfio_user_cffi", named, paths[1], mode]
        found[IN_PYTHON] = (words, paths[1])
    return found


def polls() -> list[str]:
    """The ways of `vfuserver serve --poll`, the default first."""
    (option,) = (parameter for parameter in serve_command.params if parameter.name == "poll")
    assert isinstance(option.type, click.Choice)
    return [*option.type.choices]


def serve(*words: object) -> Words:
    """`vfuserver serve`."""
    return [sys.executable, "-m", "vfuserver", "serve", "--log-level", "error", *words]


def compiled(name: str, folder: Path) -> Path:
    """A program of one C file of this folder. CalledProcessError: it does not compile."""
    program = folder / name
    if not program.exists():
        subprocess.run(["cc", "-O2", "-o", program, HERE / f"{name}.c", "-ldl"], check=True)
    return program


@contextmanager
def started(command: Words, lines: int = 1) -> Iterator[int]:
    """The server's pid once it has printed so many lines. RuntimeError: it ended before."""
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            for _ in range(lines):
                if not server.stdout.readline():
                    raise RuntimeError(f"a server did not start, see above: {' '.join(map(str, command))}")
            yield server.pid
        finally:
            server.terminate()


def place(pid: int, processor: int) -> None:
    """All its threads on one of the processors that this process may use, by number; wire.c's clients are on 0."""
    usable = sorted(os.sched_getaffinity(0))
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {usable[processor % len(usable)]})


def numbers(words: Words, script: str = "") -> list[float]:
    """What a client (wire.c) prints. CalledProcessError: it failed; what it said is in its stderr."""
    done = subprocess.run([*map(str, words)], input=script, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    return [float(line) for line in done.stdout.split()]
