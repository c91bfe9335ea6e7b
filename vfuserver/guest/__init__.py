"""Guests: QEMU and kernels found or fetched, machines by topology, commands run inside.

The public names of this folder; the modules behind them say how. They are imported when they are first used: QEMU's
arguments can be printed without qemu.qmp, which only a Machine needs. Nothing here knows the server or its devices.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vfuserver.guest.channel import CompletedCommand
    from vfuserver.guest.errors import BootError, ChannelError, CommandFailed, GuestError, ObtainError, ToolError
    from vfuserver.guest.kernel import build_vfio_kernel
    from vfuserver.guest.machine import Machine
    from vfuserver.guest.obtain import Kernel, Qemu, find_busybox, find_kernel, find_qemu, find_vfio_kernel
    from vfuserver.guest.topology import Plug, Topology, load_topology, qemu_args, topology_names

__all__ = [
    "BootError",
    "ChannelError",
    "CommandFailed",
    "CompletedCommand",
    "GuestError",
    "Kernel",
    "Machine",
    "ObtainError",
    "Plug",
    "Qemu",
    "ToolError",
    "Topology",
    "build_vfio_kernel",
    "find_busybox",
    "find_kernel",
    "find_qemu",
    "find_vfio_kernel",
    "load_topology",
    "qemu_args",
    "topology_names",
]

_HOMES = {
    "channel": ("CompletedCommand",),
    "errors": ("BootError", "ChannelError", "CommandFailed", "GuestError", "ObtainError", "ToolError"),
    "kernel": ("build_vfio_kernel",),
    "machine": ("Machine",),
    "obtain": ("Kernel", "Qemu", "find_busybox", "find_kernel", "find_qemu", "find_vfio_kernel"),
    "topology": ("Plug", "Topology", "load_topology", "qemu_args", "topology_names"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
