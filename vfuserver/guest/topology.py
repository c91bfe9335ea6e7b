"""Topologies: what stands between QEMU's processor and the server's socket, one TOML file each.

A topology says how much memory there is and by what it is backed, which bridges and IOMMUs there are, and where a
device is put. The files are data of the package `vfuserver_qemu_configs`; adding one is adding a file. This module
makes QEMU's arguments for the machine and its devices; kernels, consoles and accelerators are not its business.

Keys of a file: `description`, `memory` (QEMU's size, e.g. "512M"), `arguments` (words for QEMU), and optionally
`kernel_arguments`, `relay` (true: descriptors are dropped on the way) and the table `device`, whose entries are added
to each device's -device JSON. In all words `{memory}`, `{directory}` and, in `device`, `{index}` are replaced.
"""

import json
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from vfuserver.errors import DeclarationError, UsageError

_PACKAGE = "vfuserver_qemu_configs"
_SUFFIX = ".toml"
_KEYS: dict[str, type] = {
    "description": str,
    "memory": str,
    "arguments": list,
    "kernel_arguments": list,
    "relay": bool,
    "device": dict,
}
_NEEDED = ("description", "memory", "arguments")

ONLY_SLOT = 0
"""Behind a root port there is no other."""
FIRST_CARD_SLOT = 0x10
"""On the root bus QEMU fills free slots from below, and q35 has its own devices at the top."""


@dataclass(frozen=True, slots=True)
class Plug:
    """One vfio-user device of a machine: the server's socket and QEMU's id for the device.

    `properties` are added to its -device JSON and win over the topology's (e.g. {"x-msg-timeout": 2000}). `function`:
    which one of a card with several it is; those of one card follow each other, function 0 first.
    """

    id: str
    socket_path: str | Path
    properties: Mapping[str, Any] = field(default_factory=dict)
    function: int | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    """One topology, as its file says it."""

    name: str
    description: str
    memory: str
    arguments: Sequence[str]
    kernel_arguments: Sequence[str] = ()
    relay: bool = False
    device: Mapping[str, Any] = field(default_factory=dict)

    def device_json(self, plug: Plug, index: int, socket_path: str | Path | None = None) -> dict[str, Any]:
        """The -device (or device_add) object for `plug` as the device number `index`; `socket_path` overrides its own.

        The socket's path is made absolute: QEMU runs elsewhere. Functions of a card say where they are, as QEMU puts
        two devices into one slot only if it is told so.
        """
        path = Path(socket_path or plug.socket_path).absolute()
        placed = {key: _filled(value, index=index) for key, value in self.device.items()}
        socket = {"type": "unix", "path": str(path)}
        if plug.function is not None:
            slot = ONLY_SLOT if "bus" in {**placed, **plug.properties} else FIRST_CARD_SLOT + index
            placed |= {"multifunction": True, "addr": f"{slot:#x}.{plug.function}"}
        return {"driver": "vfio-user-pci", "id": plug.id, "socket": socket, **placed, **plug.properties}

    def machine_args(self, directory: str | Path | None = None) -> list[str]:
        """The words for QEMU before any device; `directory` is where memory files go (default: the system's)."""
        known = {"memory": self.memory, "directory": str(directory or tempfile.gettempdir())}
        return ["-m", self.memory, *(_filled(word, **known) for word in self.arguments)]


def topology_names() -> list[str]:
    """The names of all topologies, sorted."""
    return sorted(entry.name.removesuffix(_SUFFIX) for entry in _folder().iterdir() if entry.name.endswith(_SUFFIX))


@cache
def load_topology(name: str) -> Topology:
    """The topology `name`; UsageError lists the names there are, DeclarationError says what is wrong in the file."""
    entry = _folder().joinpath(name + _SUFFIX)
    if "/" in name or not entry.is_file():
        raise UsageError(f"there is no topology {name!r}; there are: {', '.join(topology_names())}")
    return parse_topology(name, entry.read_text())


def parse_topology(name: str, text: str) -> Topology:
    """The topology that the TOML `text` declares; DeclarationError names the file and the key."""
    where = f"qemu-configs/{name}{_SUFFIX}"
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DeclarationError(f"{where}: {error}") from None
    for key in _NEEDED:
        if key not in table:
            raise DeclarationError(f"{where}: the key {key} must be there")
    for key, value in table.items():
        if key not in _KEYS:
            raise DeclarationError(f"{where}: the keys must be among {', '.join(_KEYS)}, not {key}")
        if not isinstance(value, _KEYS[key]):
            raise DeclarationError(f"{where}: {key} must be a {_KEYS[key].__name__}, not {value!r}")
    return Topology(name=name, **table)


def qemu_args(topology: str | Topology, sockets: Sequence[str | Path | Plug]) -> list[str]:
    """QEMU's arguments for the machine of `topology` with one vfio-user-pci device per socket.

    A bare path becomes the device `vfuN`, N counting from 0. Nothing about kernel, disks, display or accelerator is
    in it, so the words can be added to any QEMU command line for x86-64.
    """
    chosen = load_topology(topology) if isinstance(topology, str) else topology
    words = chosen.machine_args()
    plugs = [one if isinstance(one, Plug) else Plug(f"vfu{index}", one) for index, one in enumerate(sockets)]
    for index, plug in numbered(plugs):
        words += ["-device", json.dumps(chosen.device_json(plug, index))]
    return words


def numbered(plugs: Iterable[Plug]) -> Iterator[tuple[int, Plug]]:
    """Each with its device number: 0, 1, ..., where all functions of a card are one device."""
    index = -1
    for plug in plugs:
        index += not plug.function
        yield index, plug


def _folder() -> Traversable:
    return resources.files(_PACKAGE)


def _filled(value: Any, **known: object) -> Any:
    """`value` with its placeholders replaced, if it is text."""
    return value.format(**known) if isinstance(value, str) else value
