"""Parameters that several commands have, declared once. It must not import what it completes until asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # no generic before click 8.2

F = TypeVar("F", bound=Callable[..., Any])
HIGHEST_MODE = 0o777
MOST_BYTES = 1 << 46
"""What a process can map, and less than half of its addresses."""
SHIFTS = {"K": 10, "M": 20, "G": 30}


class KeyValue(ParamType):
    """KEY=VALUE, as a pair of texts."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Cuts at the first =."""
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"must be KEY=VALUE, not {value!r}", param, ctx)
        return key, text


class Number(ParamType):
    """A whole number, decimal or 0x."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """As Python reads a literal."""
        try:
            return value if isinstance(value, int) else int(value, 0)
        except ValueError:
            self.fail(f"must be a whole number (0x for hexadecimal), not {value!r}", param, ctx)


class Size(ParamType):
    """A number of bytes; K, M and G behind it mean KiB, MiB and GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """64M is 67108864."""
        if isinstance(value, int):
            return value
        text = str(value)
        shift = SHIFTS.get(text[-1:].upper(), 0)
        try:
            count = int(text[:-1] if shift else text, 0) << shift
        except ValueError:
            count = -1
        if not 0 <= count < MOST_BYTES:
            self.fail(f"must be a number of bytes such as 4096, 64M or 1G, not {value!r}", param, ctx)
        return count


class FileMode(ParamType):
    """Permissions of a file, in octal."""

    name = "mode"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """0600 is 0o600."""
        try:
            return file_mode(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def file_mode(value: object) -> int:
    """Permissions from octal text, or a number that is them. ValueError says what is legal."""
    try:
        mode = int(value, 8) if isinstance(value, str) else value
    except ValueError:
        mode = None
    if not isinstance(mode, int) or isinstance(mode, bool) or not 0 <= mode <= HIGHEST_MODE:
        raise ValueError(f"must be permissions in octal, 0 to 0777, not {value!r}")
    return mode


def complete_devices(_ctx: click.Context, _param: click.Parameter, typed: str) -> list[CompletionItem]:
    """Names of devices, and files where a path is being typed."""
    from vfuserver.device import list_devices

    names = [CompletionItem(one.name, help=one.doc) for one in list_devices() if one.name.startswith(typed)]
    return names or [CompletionItem(typed, type="file")]


def complete_topologies(_ctx: click.Context, _param: click.Parameter, typed: str) -> list[CompletionItem]:
    """Names of topologies."""
    from vfuserver.guest.topology import load_topology, topology_names

    names = [name for name in topology_names() if name.startswith(typed)]
    return [CompletionItem(name, help=load_topology(name).description) for name in names]


SERVER_SOCKET = click.Path(path_type=Path)
"""The socket of a server that is to be connected to."""
SAVED_FILE = click.Path(path_type=Path, dir_okay=False)
"""A file of `vfuserver save`."""


def device_argument(**settings: Any) -> Callable[[F], F]:
    """DEVICE."""
    return click.argument("device", shell_complete=complete_devices, **settings)


def set_option(text: str = "Set an option of the device; may be repeated.") -> Callable[[F], F]:
    """--set KEY=VALUE, as a sequence of pairs named `settings`."""
    return click.option("--set", "settings", type=KeyValue(), multiple=True, metavar="KEY=VALUE", help=text)


def topology_option(default: str) -> Callable[[F], F]:
    """--topology NAME."""
    return click.option(
        "--topology",
        metavar="NAME",
        default=default,
        shell_complete=complete_topologies,
        help="The machine: one of the files in qemu-configs.",
    )


def json_option(text: str = "Print JSON.") -> Callable[[F], F]:
    """--json, named `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help=text)


def timeout_option(seconds: float = 5.0) -> Callable[[F], F]:
    """--timeout SECONDS."""
    return click.option(
        "--timeout", type=float, default=seconds, metavar="SECONDS", help="How long one reply may take."
    )


def pairs(settings: Sequence[tuple[str, str]]) -> dict[str, str]:
    """What --set gave, by key; the last one of a key counts."""
    return dict(settings)
