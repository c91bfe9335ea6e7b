"""Card: up to eight functions that share one object.

Each function is a device of its own, with its own registers, reset, client and socket; the card is the plain object
that they reach as `self.card`. No reset touches what the card itself remembers; an upgrade carries what it declares. It
must not know sockets or sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from typing import Any, ClassVar, Final, Generic, Self, TypeVar, cast, overload

from vfuserver.device.declaration import device_name
from vfuserver.device.option import Option, parse_given, parse_options
from vfuserver.device.pci_device import PciDevice
from vfuserver.device.state import State
from vfuserver.errors import DeclarationError

MOST_FUNCTIONS: Final = 8
"""A device number has three bits of function number behind it (PCI 3.0, 3.2.2.3.4)."""

D = TypeVar("D", bound=PciDevice)


class Function(Generic[D]):
    """One function of a card: `left = Function(Port)`. On an instance of the card: the device."""

    def __init__(self, kind: type[D]) -> None:
        self.kind = kind
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> D: ...
    def __get__(self, instance: object | None, owner: type) -> Self | D:
        """The declaration on the class; a device, once it is made, is an attribute that wins over this descriptor."""
        if instance is None:
            return self
        raise AttributeError(f"{owner.__name__}.{self.name} is not made yet: functions are made in order, 0 first")

    def check(self, where: str) -> None:
        """DeclarationError unless it is of a device class that can be made."""
        if not (isinstance(self.kind, type) and issubclass(self.kind, PciDevice) and hasattr(self.kind, "declaration")):
            raise DeclarationError(f"{where}: a Function must be of a PciDevice class, not {self.kind!r}")


class Card:
    """Base class of cards. The class body declares `Function`s, which are function 0, 1, ... in that order, `State`
    that they share, and `Option`s; an option of a function is one of the card, and goes to every function that has it.

    On an instance `functions` holds the devices in order; each has `card` and `function_number`. While they are
    powered on, one after the other, `functions` holds those that are ready. A base class that is no card itself says
    `class Base(Card, abstract=True)`. DeclarationError at class creation; UsageError for an option that does not exist.
    """

    device_name: ClassVar[str] = "card"
    declared: ClassVar[Mapping[str, Function[Any]]] = {}
    own_options: ClassVar[Mapping[str, Option[Any]]] = {}
    states: ClassVar[Mapping[str, State[Any]]] = {}
    functions: tuple[PciDevice, ...] = ()

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        super().__init_subclass__()
        if "device_name" not in cls.__dict__:
            cls.device_name = device_name(cls.__name__)
        members = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
        cls.declared = {name: value for name, value in members.items() if isinstance(value, Function)}
        cls.own_options = {name: value for name, value in members.items() if isinstance(value, Option)}
        cls.states = {name: value for name, value in members.items() if isinstance(value, State)}
        if not abstract:
            _check(cls)

    def __init__(self, *, name: str | None = None, **options: object) -> None:
        """Powers every function on. `name` is what messages call the card; its functions are `name`.0, `name`.1, ..."""
        self.name = name or self.device_name
        given = parse_given(self.device_name, self.options(), options)
        own = {key: value for key, value in given.items() if key in self.own_options}
        self.__dict__.update(parse_options(self.device_name, self.own_options, own))
        self.__dict__.update({key: state.fresh() for key, state in self.states.items()})
        with ExitStack() as made:
            for attribute, function in self.declared.items():
                device = self._power_on(function, given)
                made.callback(device.close)
                self.__dict__[attribute] = device
                self.functions = (*self.functions, device)
            made.pop_all()

    @classmethod
    def options(cls) -> Mapping[str, Option[Any]]:
        """What may be set: the functions' options and the card's own, by name."""
        functions = (function.kind.declaration.options for function in cls.declared.values())
        return {name: option for options in (*functions, cls.own_options) for name, option in options.items()}

    @property
    def multifunction(self) -> bool:
        """True with more than one function: each shows it in its header type (PCI 3.0, 6.2.1)."""
        return len(self.declared) > 1

    def undeclared(self) -> list[str]:
        """Attributes that it was given and does not declare, so that nobody can hand them over. A cached_property is
        none: it is made anew."""
        declared = {"name", "functions", *self.declared, *self.own_options, *self.states}
        made = {name for name in vars(self) if isinstance(getattr(type(self), name, None), cached_property)}
        return sorted(vars(self).keys() - declared - made)

    def close(self) -> None:
        """Closes every function. Idempotent."""
        for function in self.functions:
            function.close()

    def _power_on(self, function: Function[Any], given: Mapping[str, object]) -> PciDevice:
        options = {key: value for key, value in given.items() if key in function.kind.declaration.options}
        made = function.kind(self, name=f"{self.name}.{len(self.functions)}", **options)
        return cast(PciDevice, made)


def _check(cls: type[Card]) -> None:
    if not 1 <= len(cls.declared) <= MOST_FUNCTIONS:
        raise DeclarationError(
            f"{cls.__name__}: a card must have 1 to {MOST_FUNCTIONS} functions, not {len(cls.declared)}"
        )
    members: dict[str, Function[Any] | Option[Any] | State[Any]] = {**cls.declared, **cls.own_options, **cls.states}
    for name, one in members.items():
        if name in _RESERVED:
            raise DeclarationError(f"{cls.__name__}.{name}: must have another name, not one that Card uses itself")
        one.check(f"{cls.__name__}.{name}")


_RESERVED = frozenset(dir(Card)) | {"name"}
"""Names that a declaration must not take."""
