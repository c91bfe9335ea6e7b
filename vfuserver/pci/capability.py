"""What a capability is: the two base classes, and the registry that knows every class of `pci/caps`.

A new capability is one new file in `pci/caps`: a frozen dataclass derived from `Capability` or `ExtendedCapability`
whose class statement gives its id, which registers it. It states its registers in `body()` and, where masks are not
enough, an `on_write` hook. A class without `id=` is a special form of the one it derives from and is not registered.

    @dataclass(frozen=True)
    class PowerManagement(Capability, id=POWER_MANAGEMENT):
        def body(self) -> Sequence[Field]: ...

It must not know any particular capability.
"""

import importlib
import pkgutil
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import ClassVar, Final, Self, TypeAlias, TypeVar

from vfuserver.errors import DeclarationError
from vfuserver.pci.block import Block
from vfuserver.pci.fields import BYTE, DWORD, Field

CAPABILITY_ID: Final = 0x00
CAPABILITY_NEXT: Final = 0x01
CAPABILITY_BODY: Final = 0x02
EXTENDED_HEADER: Final = 0x00
EXTENDED_BODY: Final = 0x04
VERSION_SHIFT: Final = 16
NEXT_SHIFT: Final = 20

HIGHEST_ID: Final = 0xFF
HIGHEST_EXTENDED_ID: Final = 0xFFFF
HIGHEST_VERSION: Final = 0xF

_CAPS_PACKAGE: Final = "vfuserver.pci.caps"


class ExtendedHeader(IntEnum):
    """The first dword of an extended capability (PCIe 5.0, 7.6.3)."""

    ID = 0x0000_FFFF
    VERSION = 0x000F_0000
    NEXT = 0xFFF0_0000


@dataclass(frozen=True)
class AnyCapability(Block):
    """What both kinds have in common. `at` puts a capability at an offset of the author's choice (a multiple of 4)."""

    at: int | None = field(default=None, kw_only=True)

    id: ClassVar[int]
    repeatable: ClassVar[bool] = False
    extends: ClassVar[bool] = False

    def __init_subclass__(cls, repeatable: bool | None = None, extends: bool | None = None) -> None:
        """`repeatable`: a function may have several of these. `extends`: the capability gives a function 4096 bytes
        of configuration space. Both are inherited where they are not said."""
        super().__init_subclass__()
        cls.repeatable = cls.repeatable if repeatable is None else repeatable
        cls.extends = cls.extends if extends is None else extends

    @abstractmethod
    def body(self) -> Sequence[Field]:
        """The registers behind the capability header; offsets from the capability's first byte."""

    @abstractmethod
    def header_bytes(self, following: int) -> bytes:
        """The capability header with the offset of the next one, 0 at the end of the list."""

    def beside(self, others: Sequence["AnyCapability"]) -> Self:
        """What it becomes in a function that has all of `others`; itself, unless it tells of them."""
        return self

    @classmethod
    def variants(cls) -> Sequence[Self]:
        """Declarations that between them show every layout of the capability. Contract tests walk them all."""
        return (cls(),)


@dataclass(frozen=True)
class Capability(AnyCapability):
    """A capability below 0x100: 8-bit id, next pointer (PCI 3.0, 6.7)."""

    registry: ClassVar[dict[int, type["Capability"]]] = {}

    def __init_subclass__(cls, id: int | None = None, **traits: bool) -> None:  # noqa: A002 - the specification's word
        """`id` registers the class (DeclarationError if another one has it)."""
        super().__init_subclass__(**traits)
        if id is not None:
            _register(Capability.registry, cls, id, HIGHEST_ID)

    def rows(self) -> Sequence[Field]:
        """The header, and the body."""
        return (
            Field("id", CAPABILITY_ID, BYTE, reset=self.id),
            Field("next", CAPABILITY_NEXT, BYTE),
            *self.body(),
        )

    def header_bytes(self, following: int) -> bytes:
        """Id and next pointer, one byte each."""
        return bytes((self.id, following))


@dataclass(frozen=True)
class ExtendedCapability(AnyCapability):
    """A capability from 0x100 on: 16-bit id, 4-bit version, next pointer (PCIe 5.0, 7.6.3)."""

    registry: ClassVar[dict[int, type["ExtendedCapability"]]] = {}
    version: ClassVar[int] = 1
    implies: ClassVar[int] = 0
    """Bits of Device Capabilities 2 (PCIe 5.0, 7.5.3.15) that a function with this capability has."""

    def __init_subclass__(cls, id: int | None = None, version: int | None = None, **traits: bool) -> None:  # noqa: A002
        """`id` registers the class (DeclarationError if another one has it); `version` is 1 to 15, by default 1."""
        super().__init_subclass__(**traits)
        if version is not None:
            if not 0 < version <= HIGHEST_VERSION:
                raise DeclarationError(f"version of {cls.__name__} must be 1 to {HIGHEST_VERSION}, not {version}")
            cls.version = version
        if id is not None:
            _register(ExtendedCapability.registry, cls, id, HIGHEST_EXTENDED_ID)

    def rows(self) -> Sequence[Field]:
        """The header, and the body."""
        reset = self.id | self.version << VERSION_SHIFT
        return (Field("header", EXTENDED_HEADER, DWORD, reset=reset, bits=ExtendedHeader), *self.body())

    def header_bytes(self, following: int) -> bytes:
        """Id, version and next pointer in one dword."""
        header = self.id | self.version << VERSION_SHIFT | following << NEXT_SHIFT
        return header.to_bytes(DWORD, "little")


C = TypeVar("C", bound=AnyCapability)
CapabilityClass: TypeAlias = type[Capability] | type[ExtendedCapability]


def _register(registry: dict[int, type[C]], cls: type[C], number: int, highest: int) -> None:
    if not 0 < number <= highest:
        raise DeclarationError(f"id of {cls.__name__} must be 1 to {highest:#x}, not {number:#x}")
    present = registry.get(number)
    if present is not None:
        raise DeclarationError(f"id {number:#x} must have one class, not {present.__name__} and {cls.__name__}")
    cls.id = number
    registry[number] = cls


@cache
def _load_all() -> None:
    package = importlib.import_module(_CAPS_PACKAGE)
    for module in pkgutil.iter_modules(package.__path__, f"{_CAPS_PACKAGE}."):
        importlib.import_module(module.name)


def registered() -> Sequence[CapabilityClass]:
    """Every capability class of `pci/caps`, by id, ordinary ones first. The package is walked once."""
    _load_all()
    ordinary = (one for _, one in sorted(Capability.registry.items()))
    extended = (one for _, one in sorted(ExtendedCapability.registry.items()))
    return (*ordinary, *extended)
