"""Registers and arrays of them, as a class body declares them in a register map.

Each is a descriptor: on the class it is the declaration, on an instance it is the stored value (an int, or a sequence
of ints), read and set without hooks, masks or side effects. This module must not know BARs, devices or where instances
keep their tables, beyond the attribute name that the map gives (`slot`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypeVar, overload

from vfuserver._core import ALL, COUNT, LATEST, READ_HOOK, SPLIT_HIGH, SPLIT_LOW, STRICT, WRITE_HOOK, Table
from vfuserver.errors import DeclarationError
from vfuserver.registers.declared import Answer, Declared, Hook, Joined
from vfuserver.registers.policy import RO, Masks, Policy

if TYPE_CHECKING:
    from vfuserver._core import RegisterRow

Split: TypeAlias = Literal["lo-hi", "hi-lo"]
_SPLIT_FLAGS: dict[str | None, int] = {None: 0, "lo-hi": SPLIT_HIGH, "hi-lo": SPLIT_LOW}
_JOINED_FLAGS = {Joined.NOT: 0, Joined.LATEST: LATEST, Joined.ALL: ALL}

Read = TypeVar("Read", bound=Callable[[Any], Answer])
Write = TypeVar("Write", bound=Callable[[Any, int], Answer])
WriteAll = TypeVar("WriteAll", bound=Callable[[Any, list[int]], Answer])
ReadElement = TypeVar("ReadElement", bound=Callable[[Any, int], Answer])
WriteElement = TypeVar("WriteElement", bound=Callable[[Any, int, int], Answer])
WriteAllElement = TypeVar("WriteAllElement", bound=Callable[[Any, int, list[int]], Answer])


class _Masked(Declared):
    """A register or an array: width, policy, reset value and the flags that the core knows."""

    def __init__(
        self,
        offset: int,
        policy: Policy | type[Policy] = RO,
        *,
        width: int = 4,
        count: int = 1,
        reset: int | bytes = 0,
        split: Split | None = None,
        strict: bool = False,
        name: str = "",
        doc: str = "",
    ) -> None:
        super().__init__(offset, name=name, doc=doc)
        self.width = width
        self.count = count
        self.reset = reset
        self.policy = policy() if isinstance(policy, type) else policy
        self.split = split
        self.strict = strict

    @property
    def policy_text(self) -> str:
        """The policy's symbol, with its bits where it has any."""
        return repr(self.policy)

    def check(self, where: str) -> None:
        """Width, alignment, split, reset value and hooks' parameters."""
        super().check(where)
        if self.width not in (1, 2, 4, 8):
            raise DeclarationError(f"{where}: the width must be 1, 2, 4 or 8 bytes, not {self.width}")
        if self.offset % self.width:
            raise DeclarationError(f"{where}: the offset must be a multiple of {self.width}, not {self.offset:#x}")
        if self.split not in _SPLIT_FLAGS:
            raise DeclarationError(f"{where}: split must be 'lo-hi', 'hi-lo' or None, not {self.split!r}")
        if self.split and (self.width != 8 or self.count != 1 or self.strict):
            raise DeclarationError(f"{where}: a split register must be one of 8 bytes and not strict")
        self.reset_image(where)
        self._check_hooks(where)
        self._check_joined(where)

    def reset_image(self, where: str) -> bytes:
        """The reset value, repeated for an array unless bytes were given for all of it."""
        if isinstance(self.reset, int):
            if not 0 <= self.reset < 1 << 8 * self.width:
                raise DeclarationError(f"{where}: reset must fit in {self.width} bytes, not be {self.reset:#x}")
            return self.reset.to_bytes(self.width, "little") * self.count
        if len(self.reset) != self.size:
            raise DeclarationError(f"{where}: reset must be {self.size} bytes long, not {len(self.reset)}")
        return bytes(self.reset)

    def row(self, where: str) -> RegisterRow:
        """Masks of the policy, flags of the declaration and of its hooks."""
        masks = self._masks(where)
        flags = masks.flags | _SPLIT_FLAGS[self.split] | (STRICT if self.strict else 0)
        flags |= _JOINED_FLAGS[self.joined]
        flags |= (READ_HOOK if self.read_hook else 0) | (WRITE_HOOK if self.write_hook else 0)
        return (
            self.offset,
            self.width,
            self.count,
            self.reset_image(where),
            masks.readable,
            masks.read_clear,
            masks.store,
            masks.write_1_clear,
            masks.write_1_set,
            flags,
        )

    def _masks(self, where: str) -> Masks:
        try:
            return self.policy.masks(self.width)
        except DeclarationError as error:
            raise DeclarationError(f"{where}: {error}") from None

    def _check_hooks(self, where: str) -> None:
        value = "values" if self.joined is Joined.ALL else "value"
        expected = {"on_read": ["self"], "on_write": ["self", value]}
        for kind, hook in (("on_read", self.read_hook), ("on_write", self.write_hook)):
            wanted = expected[kind][:1] + (["element"] if self.count > 1 else []) + expected[kind][1:]
            if hook is not None and hook.__code__.co_argcount != len(wanted):
                raise DeclarationError(
                    f"{where}: its {kind} hook must take ({', '.join(wanted)}), "
                    f"not {hook.__code__.co_argcount} parameters ({hook.__name__})"
                )

    def _check_joined(self, where: str) -> None:
        masks = self._masks(where)
        effects = masks.write_1_clear or masks.write_1_set or masks.flags & COUNT
        if self.joined is not Joined.NOT and (self.split or effects):
            raise DeclarationError(
                f"{where}: only writes that are stored, or ignored, may come together: its hook must be an on_write"
            )

    def _hook_joined(self, joined: Joined, hook: Hook) -> None:
        self._hook("write_hook", hook)
        self.joined = joined

    def _hook(self, kind: str, hook: Hook) -> None:
        if getattr(self, kind) is not None:
            raise DeclarationError(f"register at {self.offset:#x} must have one {kind}, not a second ({hook.__name__})")
        setattr(self, kind, hook)


class Register(_Masked):
    """One register of 1, 2, 4 or 8 bytes, little endian. On an instance: its stored value, an int."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> int: ...
    def __get__(self, instance: object | None, owner: type) -> Self | int:
        """The declaration on the class, the stored value on an instance."""
        if instance is None:
            return self
        table: Table = instance.__dict__[self.slot]
        return table.get(self.index)

    def __set__(self, instance: object, value: int) -> None:
        """Stores a value (0 <= value < 2**(8*width)) without hooks and masks."""
        table: Table = instance.__dict__[self.slot]
        table.set(self.index, 0, value)

    def on_read(self, hook: Read) -> Read:
        """`hook(self)` answers reads: the whole value, or None for the stored one. `async def` answers later."""
        self._hook("read_hook", hook)
        return hook

    def on_write(self, hook: Write) -> Write:
        """`hook(self, value)` sees writes, merged to the whole register (bytes not written are 0 where bits are
        write-1-to-clear or -set). It returns the value to store, or None to store what was written through the
        policy. `async def` answers later."""
        self._hook("write_hook", hook)
        return hook

    def on_latest_write(self, hook: Write) -> Write:
        """As on_write, but called once, with the last value, for posted writes that came together.

        Those are writes of the whole register that wait one directly behind the other, each the size of the register:
        messages that want no reply (the last of them may want one, and gets it after the call), or the entries of one
        REGION_WRITE_MULTI. A write or a read of anything else ends them, so the hook sees nothing too early or too
        late. What the hook returns, or None, is for the last value; the ones before leave no trace. Only on registers
        that store what is written, or ignore it (RW, WO, RO), and not split: DeclarationError at class creation."""
        self._hook_joined(Joined.LATEST, hook)
        return hook

    def on_writes(self, hook: WriteAll) -> WriteAll:
        """As on_latest_write, but `hook(self, values)` gets a list of all the values in order, at least one."""
        self._hook_joined(Joined.ALL, hook)
        return hook


class BoundArray:
    """One instance's array of registers: ints by element."""

    __slots__ = ("_count", "_row", "_table")

    def __init__(self, table: Table, row: int, count: int) -> None:
        self._table, self._row, self._count = table, row, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, element: int) -> int:
        return self._table.get(self._row, self._at(element))

    def __setitem__(self, element: int, value: int) -> None:
        self._table.set(self._row, self._at(element), value)

    def __iter__(self) -> Iterator[int]:
        return (self._table.get(self._row, element) for element in range(self._count))

    def _at(self, element: int) -> int:
        if not -self._count <= element < self._count:
            raise IndexError(f"element must be less than {self._count}, not {element}")
        return element % self._count


class RegisterArray(_Masked):
    """`count` consecutive registers of one width and policy. On an instance: a sequence of ints."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> BoundArray: ...
    def __get__(self, instance: object | None, owner: type) -> Self | BoundArray:
        """The declaration on the class, the stored values on an instance."""
        if instance is None:
            return self
        return BoundArray(instance.__dict__[self.slot], self.index, self.count)

    def on_read(self, hook: ReadElement) -> ReadElement:
        """As Register.on_read, with the element's number: `hook(self, element)`."""
        self._hook("read_hook", hook)
        return hook

    def on_write(self, hook: WriteElement) -> WriteElement:
        """As Register.on_write, with the element's number: `hook(self, element, value)`."""
        self._hook("write_hook", hook)
        return hook

    def on_latest_write(self, hook: WriteElement) -> WriteElement:
        """As Register.on_latest_write, for writes of one element: `hook(self, element, value)`."""
        self._hook_joined(Joined.LATEST, hook)
        return hook

    def on_writes(self, hook: WriteAllElement) -> WriteAllElement:
        """As Register.on_writes, for writes of one element: `hook(self, element, values)`."""
        self._hook_joined(Joined.ALL, hook)
        return hook
