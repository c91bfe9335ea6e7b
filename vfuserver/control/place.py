"""Where the control socket of a server lies: beside each of its sockets. Both ends know it from here."""

from pathlib import Path
from typing import Final

SUFFIX: Final = ".control"


def beside(path: Path) -> Path:
    """The control socket of the server that listens on `path`."""
    return path.with_name(path.name + SUFFIX)
