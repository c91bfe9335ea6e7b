"""lspci on this machine: the one that is installed, else the one that was fetched for guests."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from vfuserver.guest.pciutils import fetched_lspci

Lspci = Callable[..., str]
"""lspci(dump, *options): what lspci says of the text of a dump."""

SYSTEM_FOLDERS = "/usr/sbin:/sbin:/usr/bin"
"""Where it is installed and a user's PATH may not lead."""


class NoLspciError(Exception):
    """There is none that runs here; the text says why."""


def find_lspci() -> tuple[str, ...]:
    """The words that start it; NoLspciError where there is none that runs. Nothing is fetched."""
    if found := shutil.which("lspci") or shutil.which("lspci", path=SYSTEM_FOLDERS):
        return (found,)
    words = fetched_lspci()
    if words is None:
        raise NoLspciError("lspci is not installed (Debian: pciutils), nor fetched: `vfuserver guest fetch` does that")
    try:  # on a dump of nothing
        subprocess.run([*words, "-F", "/dev/null"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoLspciError(
            f"lspci is not installed, and the one fetched for guests does not run here: {error}"
        ) from error
    return words


def decode(words: tuple[str, ...], folder: Path, dump: str, *options: str) -> str:
    """What lspci says of the dump, for which `folder` gives a place."""
    path = folder / "dump"
    path.write_text(dump)
    done = subprocess.run([*words, "-F", str(path), *options], capture_output=True, text=True, check=True)
    return done.stdout
