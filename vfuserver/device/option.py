"""Options: what a person may set about a device when it is made, `--set key=value` on the command line.

Declared in the class body, checked here, read as plain attributes. It must not know the command line or devices.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Generic, Self, TypeVar, overload

from vfuserver.errors import DeclarationError, UsageError

T = TypeVar("T")

_BOOLS = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


def _parse_bool(text: str) -> bool:
    return _BOOLS[text.lower()]


def _parse_int(text: str) -> int:
    return int(text, 0)


_PARSERS: dict[type, tuple[Callable[[str], Any], str]] = {
    bool: (_parse_bool, "yes or no"),
    int: (_parse_int, "a whole number (0x for hexadecimal)"),
    float: (float, "a number"),
    str: (str, "a text"),
}


class Option(Generic[T]):
    """One option: `loopback = Option(bool, False, "inputs follow the outputs")`. On an instance: its value.

    `choices`, if given, are the only legal values.
    """

    def __init__(self, kind: type[T], default: T, doc: str, *, choices: Sequence[T] = ()) -> None:
        self.kind = kind
        self.default = default
        self.doc = doc
        self.choices = tuple(choices)
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def check(self, where: str) -> None:
        """DeclarationError unless type, default and choices belong together."""
        if self.kind not in _PARSERS:
            raise DeclarationError(f"{where}: an option's type must be bool, int, float or str, not {self.kind!r}")
        if type(self.default) is not self.kind:
            raise DeclarationError(f"{where}: the default must be of type {self.kind.__name__}, not {self.default!r}")
        if self.choices and self.default not in self.choices:
            raise DeclarationError(f"{where}: the default must be one of its choices, not {self.default!r}")

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Self | T:
        """The declaration on the class; an instance's own attribute wins over this descriptor."""
        return self

    @property
    def key(self) -> str:
        """The name on the command line: dashes for underscores."""
        return self.name.replace("_", "-")

    @property
    def legal(self) -> str:
        """What may be given, in words."""
        return " or ".join(map(str, self.choices)) if self.choices else _PARSERS[self.kind][1]

    def parse(self, value: object, device: str) -> T:
        """The value of a text, or of a value that has the type already. UsageError names what is legal."""
        parsed: object = None
        with suppress(KeyError, ValueError):
            parsed = _PARSERS[self.kind][0](value) if isinstance(value, str) else value
        if type(parsed) is not self.kind or (self.choices and parsed not in self.choices):
            raise UsageError(f"{device}: option {self.key} must be {self.legal}, not {value!r}")
        return parsed


def parse_options(device: str, declared: Mapping[str, Option[Any]], given: Mapping[str, object]) -> dict[str, Any]:
    """Every option's value by attribute name. UsageError for a key that the device does not have."""
    return {name: option.default for name, option in declared.items()} | parse_given(device, declared, given)


def parse_given(device: str, declared: Mapping[str, Option[Any]], given: Mapping[str, object]) -> dict[str, Any]:
    """The values that are given, by attribute name; the others keep their defaults. UsageError as parse_options."""
    values = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in declared:
            raise UsageError(f"{device} has no option {key}; {_legal_keys(declared)}")
        values[name] = declared[name].parse(value, device)
    return values


def _legal_keys(declared: Mapping[str, Option[Any]]) -> str:
    if not declared:
        return "it has none: remove --set"
    return "it has " + ", ".join(f"{option.key} ({option.legal})" for option in declared.values())
