"""State: what a device remembers besides its registers, declared so that it is reset, saved and restored by itself.

Only plain data is state: what can be written down, moved to another process and read again. An instance keeps its
values in its own `__dict__`, so reading and setting them costs what any attribute costs. It must not know registers,
jobs or devices.
"""

from copy import deepcopy
from typing import Generic, Self, TypeVar, overload

from vfuserver.errors import DeclarationError, LocalError

T = TypeVar("T")

PLAIN_SCALARS = (bool, int, float, str, bytes, bytearray, type(None))
PLAIN_NAMES = "int, bool, float, str, bytes, bytearray, None, and lists, tuples and dicts of these"


def is_plain(value: object) -> bool:
    """True for data that can be saved: scalars, and lists, tuples and dicts of plain data."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(is_plain(key) and is_plain(item) for key, item in value.items())
    return type(value) in PLAIN_SCALARS


class State(Generic[T]):
    """One declared piece of state: `pending = State(0)`, `buffer = State(bytearray(4096))`.

    On an instance it is an ordinary attribute that begins with a copy of `default`, returns to one at every reset,
    and is part of snapshots. Its value must stay plain data of the default's type.
    """

    def __init__(self, default: T, *, doc: str = "") -> None:
        self.default = default
        self.doc = doc
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def check(self, where: str) -> None:
        """DeclarationError unless the default is plain data."""
        if not is_plain(self.default):
            kind = type(self.default).__name__
            raise DeclarationError(f"{where}: State must be plain data ({PLAIN_NAMES}), not {kind}")

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Self | T:
        """The declaration on the class; an instance's own attribute wins over this descriptor."""
        return self

    def fresh(self) -> T:
        """A copy of the default, for an instance at power-on and after a reset."""
        return deepcopy(self.default)

    def fits(self, value: object) -> bool:
        """True for plain data of the default's type; a default of None has any."""
        return is_plain(value) and (self.default is None or type(value) is type(self.default))

    def saved(self, value: object, where: str) -> object:
        """A copy of an instance's value. LocalError if it is no longer plain data."""
        if not is_plain(value):
            raise LocalError(f"{where}.{self.name} must be plain data ({PLAIN_NAMES}), not {type(value).__name__}")
        return deepcopy(value)
