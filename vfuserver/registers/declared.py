"""What every entry of a register map has: a place, a name, a policy, perhaps hooks.

This module must not know what kinds of entries there are (`register`, `memory`), nor BARs or devices. Checks wait until
the class exists, so that their messages name class and field.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from enum import Enum
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, TypeAlias

from vfuserver.errors import DeclarationError

if TYPE_CHECKING:
    from vfuserver._core import RegisterRow

Answer: TypeAlias = int | Coroutine[Any, Any, int | None] | None
Hook: TypeAlias = Callable[..., Answer]


class Joined(Enum):
    """What a write hook is called with when several writes of its register came together; how `describe` calls it."""

    NOT = "write"
    LATEST = "latest write"
    ALL = "writes"


class Declared(ABC):
    """What every entry of a register map has: a place, a name, a policy, perhaps hooks."""

    width: int
    count: int

    def __init__(self, offset: int, *, name: str = "", doc: str = "") -> None:
        self.offset = offset
        self.name = name
        self.doc = doc
        self.named = bool(name)
        self.slot = ""
        self.index = -1
        self.read_hook: Hook | None = None
        self.write_hook: Hook | None = None
        self.joined = Joined.NOT

    def __set_name__(self, owner: type, name: str) -> None:
        self.named = True
        self.name = self.name or name

    @property
    def size(self) -> int:
        """Bytes that it covers."""
        return self.width * self.count

    @property
    def asynchronous(self) -> bool:
        """True if a hook is an `async def`: such an access is answered later."""
        return any(hook is not None and iscoroutinefunction(hook) for hook in (self.read_hook, self.write_hook))

    @property
    @abstractmethod
    def policy_text(self) -> str:
        """The policy as `describe` prints it."""

    def check(self, where: str) -> None:
        """DeclarationError (naming `where`) unless the declaration makes sense by itself."""
        if self.offset < 0:
            raise DeclarationError(f"{where}: the offset must be 0 or more, not {self.offset}")
        if self.count < 1:
            raise DeclarationError(f"{where}: the count must be 1 or more, not {self.count}")

    @abstractmethod
    def reset_image(self, where: str) -> bytes:
        """The bytes at power-on, `size` of them, little endian."""

    @abstractmethod
    def row(self, where: str) -> RegisterRow:
        """The core's row. DeclarationError as check()."""

    def describe(self, where: str) -> dict[str, object]:
        """Plain data for `vfuserver describe`."""
        return {
            "name": self.name,
            "offset": self.offset,
            "width": self.width,
            "count": self.count,
            "policy": self.policy_text,
            "reset": self._described_reset(where),
            "doc": self.doc,
            "hooks": [kind for kind, hook in (("read", self.read_hook), (self.joined.value, self.write_hook)) if hook],
            "asynchronous": self.asynchronous,
        }

    def _described_reset(self, where: str) -> int | str:
        image = self.reset_image(where)
        elements = {image[at : at + self.width] for at in range(0, len(image), self.width)}
        return int.from_bytes(elements.pop(), "little") if len(elements) == 1 else image[:64].hex()
