"""pciutils: lspci and setpci, fetched from Debian, for guests and, where the machine has none, for this machine.

It must not know which devices they look at.
"""

from pathlib import Path
from typing import Final

from vfuserver.guest.obtain import GUEST_ARCHITECTURE, fetch_packages, fetched
from vfuserver.guest.programs import loader, with_libraries

_WHAT: Final = "pciutils"
_PROGRAMS: Final = ("usr/bin/lspci", "usr/bin/setpci")
_NAMES: Final = "usr/share/misc/pci.ids"


def find_pciutils() -> Path:
    """The folder of the unpacked packages, fetched once; ObtainError says what to do."""
    return fetch_packages(_WHAT, (_WHAT,), lambda: GUEST_ARCHITECTURE)


def guest_files() -> dict[str, Path]:
    """What a guest needs for lspci and setpci (path in the guest -> file). Not the 1.4 MB of names: use `lspci -n`."""
    return with_libraries(find_pciutils(), _PROGRAMS)


def fetched_lspci() -> tuple[str, ...] | None:
    """The words that start the fetched lspci on this machine (an amd64 one), or None if it was not fetched."""
    root = fetched(_WHAT)
    return None if root is None else (*loader(root), str(root / _PROGRAMS[0]), "-i", str(root / _NAMES))
