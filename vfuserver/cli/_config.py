"""The file of `vfuserver serve --config`: many devices for one process, in TOML.

    loop = "uvloop"                      # for the process: loop, log-level
    suggest = true                       # for every device: socket-mode, suggest, max-data-xfer-size, ...

    [[device]]
    device = "edu"                       # as DEVICE on the command line; a path is relative to this file
    socket = "/run/edu.sock"             # relative to this file; or fd = N; a list for a card, one for each function
    name = "edu-1"                       # in the log; the device's own name by default
    rom = "edu.rom"                      # for its expansion ROM, relative to this file
    [device.set]
    dma-mask = 0xffffffff

An entry of a device wins over the command line, and that over the file's first part. Nothing is ignored: a key that
is not known is an error. It must not know devices.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from vfuserver.cli._logging import LEVELS
from vfuserver.cli._parameters import file_mode
from vfuserver.cli._serving import Wanted
from vfuserver.errors import UsageError
from vfuserver.session.options import MIGRATION, POLL

Check = Callable[[Any], Any]
"""The value, checked and converted; ValueError says what it must be."""


def _typed(kind: type | tuple[type, ...], words: str) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"must be {words}, not {value!r}")
        return value

    return check


def _one_or_more(check: Check) -> Check:
    """One value or a list of them, as a list."""
    return lambda value: [check(one) for one in (value if isinstance(value, list) else [value])]


def _one_of(*legal: str) -> Check:
    def check(value: Any) -> Any:
        if value not in legal:
            raise ValueError(f"must be {' or '.join(legal)}, not {value!r}")
        return value

    return check


_text, _number, _flag = _typed(str, "a text"), _typed(int, "a whole number"), _typed(bool, "true or false")

PROCESS: Final[Mapping[str, Check]] = {"loop": _one_of("uvloop", "asyncio"), "log_level": _one_of(*LEVELS)}
SESSION: Final[Mapping[str, Check]] = {
    "max_data_xfer_size": _number,
    "max_msg_fds": _number,
    "max_dma_maps": _number,
    "max_dma_bytes": _number,
    "max_dma_views": _number,
    "revoke_after": _typed((int, float), "a time in seconds"),
    "write_multiple": _flag,
    "twin_socket": _flag,
    "deadline": _typed((int, float), "a time in seconds"),
    "migration": _one_of(*MIGRATION),
    "hide_peer_to_peer": _flag,
    "slow_arc": _typed((int, float), "a time in seconds"),
    "poll": _one_of(*POLL),
    "poll_us": _number,
    "quirks": _typed(dict, "a table"),
}
EVERY_DEVICE: Final[Mapping[str, Check]] = {
    "engine": _one_of("vfuserver", "libvfio-user"),
    "socket_mode": file_mode,
    "suggest": _flag,
    **SESSION,
}
ONE_DEVICE: Final[Mapping[str, Check]] = {
    "device": _text,
    "socket": _one_or_more(_text),
    "fd": _one_or_more(_number),
    "name": _text,
    "rom": _text,
    "set": _typed(dict, "a table"),
    **EVERY_DEVICE,
}


def read_config(path: Path, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[Wanted]]:
    """The process's settings and the devices of a file; `given` is what the command line says.

    UsageError names the file, the key, and what is legal.
    """
    content = _parse(path)
    entries = content.pop("device", [])
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{path}: devices must be listed as [[device]] tables, at least one")
    settings = _checked(content, {**PROCESS, **EVERY_DEVICE}, str(path)) | dict(given)
    process = {key: settings.pop(key) for key in PROCESS if key in settings}
    wanted = [_device(entry, settings, path, number) for number, entry in enumerate(entries, 1)]
    return process, wanted


def wanted_device(settings: Mapping[str, Any], **place: Any) -> Wanted:
    """One device with its settings by name, session options among them."""
    session = {key: settings[key] for key in SESSION if key in settings}
    rest = {key: value for key, value in settings.items() if key not in SESSION}
    return Wanted(session=session, **rest, **place)


def _parse(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def _checked(table: Mapping[str, Any], checks: Mapping[str, Check], where: str) -> dict[str, Any]:
    """The table with underscores in its keys and every value checked."""
    checked = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in checks:
            legal = ", ".join(known.replace("_", "-") for known in checks)
            raise UsageError(f"{where}: there is no key {key}; there are {legal}")
        try:
            checked[name] = checks[name](value)
        except ValueError as error:
            raise UsageError(f"{where}: {key} {error}") from error
    return checked


def _device(entry: Any, settings: Mapping[str, Any], path: Path, number: int) -> Wanted:
    where = f"{path}: [[device]] {number}"
    if not isinstance(entry, dict):
        raise UsageError(f"{where}: must be a table, not {entry!r}")
    own = _checked(entry, ONE_DEVICE, where)
    if "device" not in own:
        raise UsageError(f"{where}: the key device must be there: a name, FILE.py:Class or package.module:Class")
    if ("socket" in own) == ("fd" in own):
        raise UsageError(f"{where}: either socket or fd must be there")
    place = {
        "device": _beside(path, own.pop("device")),
        "sockets": [path.parent / socket for socket in own.pop("socket", ())],
        "fds": own.pop("fd", ()),
        "options": own.pop("set", {}),
        "rom": path.parent / own.pop("rom") if "rom" in own else None,
    }
    return wanted_device({**settings, **own}, **place)


def _beside(path: Path, device: str) -> str:
    """A device that is a Python file lies beside the configuration file, unless its path is absolute."""
    place, colon, name = device.rpartition(":")
    if not (place or name).endswith(".py"):
        return device
    return f"{path.parent / (place or name)}{colon}{name if colon else ''}"
