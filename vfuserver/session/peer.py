"""Who is on the other side of a connection, as far as that can be known without asking.

The process id comes from the socket (SO_PEERCRED); /proc/PID/maps tells whether it has a file mapped shared or
private. None of it is needed: another user's process, or another pid namespace, just leaves things unknown.

It must not know sessions or address spaces.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_QEMU: Final = {"max_msg_fds", "max_data_xfer_size", "pgsizes", "max_dma_maps", "migration", "write_multiple"}
"""What QEMU's VERSION proposes (field-notes C.2)."""


def looks_like_qemu(proposed: Mapping[str, Any]) -> bool:
    """Whether a VERSION's `capabilities` are QEMU's: the client whose peculiarities are looked for."""
    return set(proposed) >= _QEMU


def maps_shared(pid: int, device: int, inode: int) -> bool | None:
    """Whether a process sees what others write to a file: True, False, or None if it cannot be told.

    `device` and `inode` as fstat has them. A process that has the file, but not mapped, has no copy of its own: True.
    None: no such process that we may look at, or the file is mapped in both ways.
    """
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    place = f"{os.major(device):02x}:{os.minor(device):02x}"
    ways = {
        permissions[3] == "s"
        for _, permissions, _, where, number, *_ in (line.split(maxsplit=5) for line in lines)
        if (where, number) == (place, str(inode))
    }
    return None if len(ways) == 2 else ways != {False}
