"""Access policies: for each bit of a register, what a read returns and does, and what a write does.

A policy is a class that states this as data; its masks are all that the compiled core ever sees. A new policy is one
new class here (or anywhere: the class statement registers it in `POLICIES`). What masks cannot say is a hook. This
module must not know offsets, BARs or devices.
"""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from vfuserver._core import COUNT
from vfuserver.errors import DeclarationError


class Reads(Enum):
    """What a read of a bit gives, and does to it."""

    KEEP = "returns it"
    CLEAR = "returns and clears it"
    ZERO = "returns 0"


class Writes(Enum):
    """What a write to a bit does."""

    IGNORE = "is ignored"
    STORE = "stores it"
    CLEAR = "clears it where 1 is written"
    SET = "sets it where 1 is written"
    COUNT = "adds one to the register, whatever is written"


@dataclass(frozen=True, slots=True)
class Masks:
    """A policy applied to a width: the masks of `_core.RegisterRow`, in its order, and the row flags they need."""

    readable: int
    read_clear: int = 0
    store: int = 0
    write_1_clear: int = 0
    write_1_set: int = 0
    flags: int = 0


POLICIES: dict[str, type["Policy"]] = {}
"""Every policy by its symbol, as `describe` prints it; class statements fill it."""


class Policy:
    """What reads and writes do to the bits under `bits` (all, if None); bits outside are read-only.

    Policies of disjoint bits are joined with `|`: `RW(0x0000_ffff) | W1C(0xffff_0000)`.
    """

    symbol: ClassVar[str] = ""
    reads: ClassVar[Reads] = Reads.KEEP
    writes: ClassVar[Writes] = Writes.IGNORE

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.symbol:
            POLICIES[cls.symbol] = cls

    def __init__(self, bits: int | None = None) -> None:
        if bits is not None and bits < 0:
            raise DeclarationError(f"the bits of {type(self).__name__} must be a mask of 0 or more, not {bits}")
        self.bits = bits

    def masks(self, width: int) -> Masks:
        """The masks for a register of `width` bytes. DeclarationError if `bits` do not fit in it."""
        full = (1 << 8 * width) - 1
        bits = full if self.bits is None else self.bits
        if bits & ~full:
            raise DeclarationError(f"the bits of {self} must fit in {width} bytes, not need {bits.bit_length()} bits")
        return Masks(
            readable=full & ~bits if self.reads is Reads.ZERO else full,
            read_clear=bits if self.reads is Reads.CLEAR else 0,
            store=bits if self.writes is Writes.STORE else 0,
            write_1_clear=bits if self.writes is Writes.CLEAR else 0,
            write_1_set=bits if self.writes is Writes.SET else 0,
            flags=COUNT if self.writes is Writes.COUNT else 0,
        )

    def __or__(self, other: "Policy") -> "Policy":
        return _Joined(*self._parts(), *other._parts())

    def _parts(self) -> tuple["Policy", ...]:
        return (self,)

    def __repr__(self) -> str:
        return self.symbol if self.bits is None else f"{self.symbol}({self.bits:#x})"


class RO(Policy):
    """Read-only: writes are ignored."""

    symbol = "RO"


class RW(Policy):
    """Reads return what writes stored."""

    symbol = "RW"
    writes = Writes.STORE


class WO(Policy):
    """Write-only: writes store (for hooks and for the device), reads return 0."""

    symbol = "WO"
    reads = Reads.ZERO
    writes = Writes.STORE


class W1C(Policy):
    """Write 1 to clear: the device sets bits, the driver acknowledges them."""

    symbol = "W1C"
    writes = Writes.CLEAR


class W1S(Policy):
    """Write 1 to set: the driver sets bits, the device clears them."""

    symbol = "W1S"
    writes = Writes.SET


class RC(Policy):
    """Read to clear: a read returns the bits and clears them; writes are ignored."""

    symbol = "RC"
    reads = Reads.CLEAR


class COUNTER(Policy):
    """Each write adds one, whatever is written; a read returns the count, which wraps at the register's width."""

    symbol = "COUNTER"
    writes = Writes.COUNT


class RESERVED(Policy):
    """Reads return 0, writes are ignored: declared, so that an access is not reported as undeclared."""

    symbol = "RESERVED"
    reads = Reads.ZERO


class _Joined(Policy):
    """Several policies on disjoint bits of one register. Bits that none of them claims are read-only."""

    def __init__(self, *parts: Policy) -> None:
        claimed = 0
        for part in parts:
            if part.bits is None or part.writes is Writes.COUNT:
                raise DeclarationError(f"policies joined with | must each name their bits, not {part}")
            if claimed & part.bits:
                raise DeclarationError(f"policies joined with | must claim disjoint bits, not share {part.bits:#x}")
            claimed |= part.bits
        super().__init__(claimed)
        self._joined = parts

    def masks(self, width: int) -> Masks:
        """The union of the parts' masks; a bit is readable unless some part hides it."""
        each = [part.masks(width) for part in self._joined]
        readable = (1 << 8 * width) - 1
        for one in each:
            readable &= one.readable
        return Masks(
            readable,
            read_clear=sum(one.read_clear for one in each),
            store=sum(one.store for one in each),
            write_1_clear=sum(one.write_1_clear for one in each),
            write_1_set=sum(one.write_1_set for one in each),
        )

    def _parts(self) -> tuple[Policy, ...]:
        return self._joined

    def __repr__(self) -> str:
        return " | ".join(map(repr, self._joined))
