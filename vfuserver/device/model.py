"""What can be named to be served: a device class or a card class, asked the same questions.

A device is its own only function. It must not know how models are found.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

from vfuserver.device.card import Card
from vfuserver.device.option import Option, parse_given
from vfuserver.device.pci_device import PciDevice
from vfuserver.device.rom import Rom
from vfuserver.errors import UsageError

Model: TypeAlias = type[PciDevice] | type[Card]


def is_model(value: object) -> TypeGuard[Model]:
    """True for a class that can be powered on: no base class that is abstract."""
    if not isinstance(value, type):
        return False
    return (issubclass(value, PciDevice) and hasattr(value, "declaration")) or (
        issubclass(value, Card) and bool(value.declared)
    )


def function_classes(model: Model) -> Mapping[str, type[PciDevice]]:
    """The classes of functions 0, 1, ... by the names that the model gives them."""
    if issubclass(model, Card):
        return {name: function.kind for name, function in model.declared.items()}
    return {model.device_name: model}


def function_names(model: Model, name: str) -> list[str]:
    """What messages call the functions of a model that is called `name`."""
    return [f"{name}.{number}" for number in range(len(model.declared))] if issubclass(model, Card) else [name]


def options_of(model: Model) -> Mapping[str, Option[Any]]:
    """What may be set, by name."""
    return model.options() if issubclass(model, Card) else model.declaration.options


def power_on(
    model: Model, options: Mapping[str, object], name: str | None = None, rom: Path | None = None
) -> tuple[PciDevice, ...]:
    """Its functions, made. `rom`: a file for the device's expansion ROM.

    UsageError: an option that does not exist, a value that is not legal, a ROM that cannot be, or one for a card.
    """
    given = parse_given(model.device_name, options_of(model), options)
    if issubclass(model, Card):
        if rom is not None:
            raise UsageError(
                f"{model.device_name} is a card: its functions' classes say which ROM is whose; drop --rom"
            )
        return model(name=name, **given).functions
    return (model(name=name, rom=None if rom is None else Rom(rom), **given),)
