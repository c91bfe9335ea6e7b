"""What running a guest needs beyond the server: the optional package qemu.qmp, and QEMU itself, found or fetched.

It must not know what the guest is for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vfuserver.errors import UsageError

if TYPE_CHECKING:
    from vfuserver.guest.machine import Machine


def machine_class() -> type[Machine]:
    """The class of guests. UsageError says what to install where its dependency is missing."""
    try:
        from vfuserver.guest.machine import Machine
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("qemu"):
            raise
        raise UsageError("guests need the Python package qemu.qmp: pip install 'vfuserver[guest]'") from error
    return Machine
