"""Registries: classes found by number, filled by their own class statements.

A registry names a package whose modules hold one class each. The first question walks that package once and imports
it; until then nothing is imported. No list is edited when a file is added. It must not know what is registered.
"""

import importlib
import pkgutil
from typing import ClassVar, Generic, Protocol, TypeVar

from vfuserver.errors import DeclarationError


class Numbered(Protocol):
    """What a registry holds: a class with a number of the specification."""

    number: ClassVar[int]


T = TypeVar("T", bound=Numbered)


class Registry(Generic[T]):
    """Classes of one kind by their number."""

    def __init__(self, kind: str, package: str) -> None:
        self._kind = kind
        self._package = package
        self._classes: dict[int, type[T]] = {}
        self._walked = False

    def add(self, cls: type[T]) -> None:
        """Registers a class under its number. DeclarationError: the number is another class's."""
        other = self._classes.setdefault(cls.number, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise DeclarationError(
                f"{cls.__module__}.{cls.__qualname__}: the number of a {self._kind} must be its own, not {cls.number} "
                f"of {other.__module__}.{other.__qualname__}"
            )

    def get(self, number: int) -> type[T] | None:
        """The class with this number, or None."""
        self._walk()
        return self._classes.get(number)

    def all(self) -> list[type[T]]:
        """Every class, in order of its number."""
        self._walk()
        return [self._classes[number] for number in sorted(self._classes)]

    def _walk(self) -> None:
        if self._walked:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
            importlib.import_module(module.name)
        self._walked = True
