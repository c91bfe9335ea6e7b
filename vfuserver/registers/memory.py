"""Windows of plain memory in a register map. What backs them (a file, anonymous bytes) is the device's to say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Self, overload

from vfuserver._core import MEMORY, READ_ONLY
from vfuserver.errors import DeclarationError
from vfuserver.registers.declared import Declared
from vfuserver.registers.policy import RW

if TYPE_CHECKING:
    from vfuserver._core import RegisterRow


_ZEROS: Final = memoryview(bytes(1 << 16))
"""A piece at a time: as many zeros as a window has bytes would be pages that nobody has touched yet."""


class MemoryWindow(Declared):
    """Plain memory: any width and alignment, copied whole, without hooks. On an instance: a memoryview of it."""

    width = 1

    def __init__(
        self,
        offset: int,
        size: int,
        *,
        reset: Mapping[int, bytes] | bytes = b"",
        read_only: bool = False,
        name: str = "",
        doc: str = "",
    ) -> None:
        super().__init__(offset, name=name, doc=doc)
        self.count = size
        self.reset = {0: reset} if isinstance(reset, bytes) else dict(reset)
        self.read_only = read_only

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> memoryview: ...
    def __get__(self, instance: object | None, owner: type) -> Self | memoryview:
        """The declaration on the class, a memoryview of its bytes on an instance."""
        if instance is None:
            return self
        view: memoryview = instance.__dict__[self.key]
        return view

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError(f"{self.name} is a memory window: assign to a slice of it, {self.name}[0:4] = b'...'")

    @property
    def key(self) -> str:
        """The instance attribute that holds its memoryview."""
        return f"{self.slot}_memory_{self.offset:#x}"

    @property
    def policy_text(self) -> str:
        """Memory is no policy, but it is printed in the same column."""
        return "memory, read-only" if self.read_only else "memory"

    def check(self, where: str) -> None:
        """Every piece of the reset image must lie inside."""
        super().check(where)
        for at, piece in self.reset.items():
            if at < 0 or at + len(piece) > self.count:
                raise DeclarationError(
                    f"{where}: reset must lie in {self.count:#x} bytes, not at {at:#x} + {len(piece):#x}"
                )

    def fill(self, memory: memoryview) -> None:
        """Writes the power-on image into an instance's memory."""
        for at in range(0, self.count, len(_ZEROS)):
            memory[at : at + len(_ZEROS)] = _ZEROS[: self.count - at]
        self.fill_zeros(memory)

    def fill_zeros(self, memory: memoryview) -> None:
        """As fill(), into memory that is all zeros: what stays so is not touched, and costs no pages."""
        for at, piece in self.reset.items():
            memory[at : at + len(piece)] = piece

    def reset_image(self, where: str) -> bytes:
        """Zeros, with the pieces of `reset` in their places."""
        image = bytearray(self.count)
        self.fill(memoryview(image))
        return bytes(image)

    def row(self, where: str) -> RegisterRow:
        """A MEMORY row without bytes of its own: every instance brings the memory. Its masks mean nothing."""
        flags = MEMORY | (READ_ONLY if self.read_only else 0)
        masks = RW().masks(self.width)
        return (self.offset, 1, self.count, b"", masks.readable, 0, masks.store, 0, 0, flags)

    def describe(self, where: str) -> dict[str, object]:
        """As any other entry; the reset image is told by its pieces."""
        pieces = {f"{at:#x}": piece.hex() for at, piece in self.reset.items() if piece}
        return {
            "name": self.name,
            "offset": self.offset,
            "width": self.width,
            "count": self.count,
            "policy": self.policy_text,
            "reset": pieces or 0,
            "doc": self.doc,
            "hooks": [],
            "asynchronous": False,
        }
