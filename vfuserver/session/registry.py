"""Registries: classes found by number or name, filled by their own class statements.

A registry names a package whose modules hold one class each. The first question walks that package once and imports
it; until then nothing is imported. No list is edited when a file is added. It must not know what is registered.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Generic, TypeVar

from vfuserver.errors import DeclarationError

K = TypeVar("K", int, str)
T = TypeVar("T")


class Registry(Generic[K, T]):
    """Classes of one kind by their number in the specification, or by their name."""

    def __init__(self, kind: str, package: str, key: Callable[[type[T]], K]) -> None:
        """`kind` is for error messages; `key` tells a class's number or name."""
        self._kind = kind
        self._package = package
        self._key: Callable[[type[T]], K] = key
        self._classes: dict[K, type[T]] = {}
        self._walked = False

    def add(self, cls: type[T]) -> None:
        """Registers a class under its number or name. DeclarationError: that is another class's."""
        key = self._key(cls)
        other = self._classes.setdefault(key, cls)
        if (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            what = "name" if isinstance(key, str) else "number"
            raise DeclarationError(
                f"{cls.__module__}.{cls.__qualname__}: the {what} of a {self._kind} must be its own, not {key} "
                f"of {other.__module__}.{other.__qualname__}"
            )

    def get(self, key: K) -> type[T] | None:
        """The class with this number or name, or None."""
        self._walk()
        return self._classes.get(key)

    def all(self) -> list[type[T]]:
        """Every class, in order of its number or name."""
        self._walk()
        return [self._classes[key] for key in sorted(self._classes)]

    def _walk(self) -> None:
        if self._walked:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__, f"{self._package}."):
            importlib.import_module(module.name)
        self._walked = True
