"""Finds devices and cards: built-in ones, other packages' by entry point, a file's, a module's.

DEVICE is a name ("edu": a folder of the package `vfuserver_devices`, or an entry point of the group
`vfuserver.devices`), `path/to/file.py:Class`, or `package.module:Class`. Nothing is imported before it is asked for,
except for listing. It must not start anything.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from vfuserver.device.card import Card
from vfuserver.device.model import Model, function_classes, is_model
from vfuserver.device.pci_device import PciDevice
from vfuserver.errors import UsageError, VfuserverError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

BUILT_IN: Final = "vfuserver_devices"
GROUP: Final = "vfuserver.devices"


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of `vfuserver list`; of a card the ids are function 0's.

    `error` says why a device could not be looked at; then the rest is empty.
    """

    name: str
    origin: str
    doc: str = ""
    vendor: int = 0
    device: int = 0
    error: str = ""
    functions: int = 1


def load(device: str) -> type[PciDevice]:
    """The device class that DEVICE names. UsageError says what exists and what to do, or that it is a card."""
    found = load_model(device)
    if issubclass(found, Card):
        raise UsageError(f"{device} must be a device, not a card: load_model() takes both")
    return found


def load_model(device: str) -> Model:
    """The device class or card class that DEVICE names. UsageError says what exists and what to do."""
    place, colon, attribute = device.rpartition(":")
    if colon and place.endswith(".py"):
        return _class_of(_import_file(Path(place)), attribute, device)
    if colon:
        return _class_of(_import_module(place, device), attribute, device)
    if device.endswith(".py"):
        return _only_class(_import_file(Path(device)), device)
    return _load_name(device)


def list_devices() -> list[Listed]:
    """Every built-in device and every entry point, by name. A device that does not import is listed with its error."""
    listed = [_listed(name, "built in", lambda name=name: _load_built_in(name)) for name in _built_in_names()]
    listed += [_listed(point.name, point.value, lambda point=point: _load_entry(point)) for point in _entry_points()]
    return sorted(listed, key=lambda one: one.name)


def load_compatible(compatible: str) -> type[PciDevice] | None:
    """The device class whose streams say that they are of `compatible`, among built-in ones and entry points, cards'
    functions included; None: there is none that can be imported. That of the name itself is looked at first."""
    names = sorted(
        {*_built_in_names(), *(point.name for point in _entry_points())}, key=lambda name: name != compatible
    )
    for name in names:
        try:
            found = function_classes(_load_name(name)).values()
        except UsageError:
            continue
        for one in found:
            if one.stream_name() == compatible:
                return one
    return None


def _load_name(device: str) -> Model:
    if device in _built_in_names():
        return _load_built_in(device)
    for point in _entry_points():
        if point.name == device:
            return _load_entry(point)
    names = ", ".join(sorted({*_built_in_names(), *(point.name for point in _entry_points())}))
    raise UsageError(
        f"there is no device {device}: there are {names or 'none'}; a class of your own is named as "
        f"path/to/file.py:Class or package.module:Class"
    )


def _built_in_names() -> list[str]:
    spec = importlib.util.find_spec(BUILT_IN)
    places = spec.submodule_search_locations if spec is not None else None
    modules = pkgutil.iter_modules(places or [])
    return sorted(module.name.replace("_", "-") for module in modules if module.ispkg)


def _entry_points() -> Iterator[EntryPoint]:
    from importlib.metadata import entry_points  # reads what every package says of itself: not for a built-in one

    yield from entry_points(group=GROUP)


def _load_built_in(name: str) -> Model:
    module = f"{BUILT_IN}.{name.replace('-', '_')}"
    return _named(_only_class(_import_module(module, name), name), name)


def _load_entry(point: EntryPoint) -> Model:
    try:
        loaded = point.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"device {point.name} ({point.value}) cannot be imported: {error}") from error
    if not is_model(loaded):
        raise UsageError(f"device {point.name}: {point.value} must be a PciDevice or Card class, not {loaded!r}")
    return _named(loaded, point.name)


def _named(found: Model, name: str) -> Model:
    found.device_name = name
    return found


def _import_module(module: str, device: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        raise UsageError(f"device {device}: module {module} cannot be imported: {text}") from error


class _FromSource(SourceFileLoader):
    """Never from a file of bytecode: those are told apart by whole seconds, and an author saves more often."""

    def path_stats(self, path: str) -> dict[str, Any]:
        """No time that a file of bytecode could have."""
        raise OSError(f"{path} is compiled each time")


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"there is no file {path}: a device of your own is named as path/to/file.py:Class")
    name = f"vfuserver_file_{path.stem}_{abs(hash(str(path.resolve()))):x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=_FromSource(name, str(path)))
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} cannot be imported: it must be a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _classes(module: ModuleType) -> dict[str, Model]:
    return {
        name: value
        for name, value in vars(module).items()
        if is_model(value) and value.__module__.startswith(module.__name__)
    }


def _class_of(module: ModuleType, attribute: str, device: str) -> Model:
    found = getattr(module, attribute, None)
    if not is_model(found):
        there = ", ".join(_classes(module)) or "none"
        raise UsageError(
            f"device {device}: {attribute} must be a PciDevice or Card class; in that file there are: {there}"
        )
    return found


def _only_class(module: ModuleType, device: str) -> Model:
    """The card if there is one, for its functions' classes lie beside it; else the device."""
    classes = list(_classes(module).values())
    chosen = [one for one in classes if issubclass(one, Card)] or classes
    if len(chosen) != 1:
        names = ", ".join(one.__name__ for one in chosen) or "none"
        raise UsageError(
            f"device {device} must have one PciDevice or Card class, not {names}: name it, as FILE.py:Class"
        )
    return chosen[0]


def _listed(name: str, origin: str, find: object) -> Listed:
    assert callable(find)
    try:
        found: Model = find()
    except VfuserverError as error:
        return Listed(name, origin, error=str(error))
    functions = list(function_classes(found).values())
    identity = functions[0].declaration.identity
    return Listed(name, origin, summary(found), identity.vendor, identity.device, functions=len(functions))


def summary(found: Model) -> str:
    """The first line of the docstring: of a built-in device's package, of any other's class, else of its module."""
    home = found.__module__
    if home.startswith(f"{BUILT_IN}."):
        return first_line(sys.modules[".".join(home.split(".")[:2])].__doc__)
    module = sys.modules.get(home)
    return first_line(found.__doc__) or first_line(module.__doc__ if module is not None else None)


def first_line(text: str | None) -> str:
    """The first line of a docstring, "" without one."""
    return (text or "").strip().split("\n")[0]
