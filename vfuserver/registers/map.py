"""A register map: what a class body declares for one region, compiled once into the core's layout.

It must not know PCI, devices or instances; a BAR (vfuserver.device.bar) is a register map with a place in
configuration space.
"""

from vfuserver._core import Layout
from vfuserver.errors import DeclarationError
from vfuserver.registers.declared import Declared
from vfuserver.registers.memory import MemoryWindow
from vfuserver.registers.policy import COUNTER, RC, RESERVED, RO, RW, W1C, W1S, WO, Policy
from vfuserver.registers.register import Register, RegisterArray, Split


class RegisterMap:
    """The registers and memory windows of one region of `size` bytes.

    `label` names the region in messages ("BAR0"); `slot` is the instance attribute that holds the Table. Declarations
    are added until `compile` freezes the map.
    """

    def __init__(self, size: int, *, label: str = "region", slot: str = "_table") -> None:
        self.size = size
        self.label = label
        self.slot = slot
        self.rows: list[Declared] = []
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """The compiled map. DeclarationError before `compile`."""
        if self._layout is None:
            raise DeclarationError(f"{self.label} must be an attribute of a device class, not used on its own")
        return self._layout

    @property
    def compiled(self) -> bool:
        """True once a class owns the map: nothing can be added any more."""
        return self._layout is not None

    # -- declarations, one method per policy -----------------------------------------------------------------------

    def register(
        self,
        offset: int,
        policy: Policy | type[Policy],
        *,
        width: int = 4,
        reset: int | bytes = 0,
        split: Split | None = None,
        strict: bool = False,
        name: str = "",
        doc: str = "",
    ) -> Register:
        """A register at `offset` (bytes, a multiple of `width`) with any policy.

        `split` says which half of an 8-byte register, written apart, completes it: "lo-hi" the high one, "hi-lo" the
        low one; None: each half takes effect at once. `strict`: an access of another width or alignment is EINVAL.
        """
        made = Register(offset, policy, width=width, reset=reset, split=split, strict=strict, name=name, doc=doc)
        self.add(made)
        return made

    def ro(self, offset: int, *, width: int = 4, reset: int = 0, strict: bool = False, doc: str = "") -> Register:
        """A read-only register."""
        return self.register(offset, RO, width=width, reset=reset, strict=strict, doc=doc)

    def rw(
        self,
        offset: int,
        *,
        width: int = 4,
        reset: int = 0,
        bits: int | None = None,
        split: Split | None = None,
        strict: bool = False,
        doc: str = "",
    ) -> Register:
        """A register that stores what is written, under the mask `bits` if given."""
        return self.register(offset, RW(bits), width=width, reset=reset, split=split, strict=strict, doc=doc)

    def wo(
        self, offset: int, *, width: int = 4, split: Split | None = None, strict: bool = False, doc: str = ""
    ) -> Register:
        """A write-only register: reads give 0."""
        return self.register(offset, WO, width=width, split=split, strict=strict, doc=doc)

    def w1c(
        self,
        offset: int,
        *,
        width: int = 4,
        reset: int = 0,
        bits: int | None = None,
        strict: bool = False,
        doc: str = "",
    ) -> Register:
        """A register whose bits are cleared by writing 1."""
        return self.register(offset, W1C(bits), width=width, reset=reset, strict=strict, doc=doc)

    def w1s(
        self,
        offset: int,
        *,
        width: int = 4,
        reset: int = 0,
        bits: int | None = None,
        strict: bool = False,
        doc: str = "",
    ) -> Register:
        """A register whose bits are set by writing 1."""
        return self.register(offset, W1S(bits), width=width, reset=reset, strict=strict, doc=doc)

    def rc(
        self,
        offset: int,
        *,
        width: int = 4,
        reset: int = 0,
        bits: int | None = None,
        strict: bool = False,
        doc: str = "",
    ) -> Register:
        """A register whose bits are cleared by reading them."""
        return self.register(offset, RC(bits), width=width, reset=reset, strict=strict, doc=doc)

    def counter(self, offset: int, *, width: int = 4, reset: int = 0, strict: bool = False, doc: str = "") -> Register:
        """A doorbell that counts: each write adds one, a read returns the count."""
        return self.register(offset, COUNTER, width=width, reset=reset, strict=strict, doc=doc)

    def reserved(self, offset: int, *, width: int = 4, doc: str = "") -> Register:
        """A declared hole: reads give 0, writes are ignored, and nobody reports it as undeclared."""
        return self.register(offset, RESERVED, width=width, doc=doc)

    def array(
        self,
        offset: int,
        policy: Policy | type[Policy],
        *,
        count: int,
        width: int = 4,
        reset: int | bytes = 0,
        strict: bool = False,
        name: str = "",
        doc: str = "",
    ) -> RegisterArray:
        """`count` registers side by side. `reset`: an int for each element, or bytes for all of them."""
        made = RegisterArray(offset, policy, width=width, count=count, reset=reset, strict=strict, name=name, doc=doc)
        self.add(made)
        return made

    def memory(
        self,
        offset: int,
        size: int,
        *,
        reset: dict[int, bytes] | bytes = b"",
        read_only: bool = False,
        name: str = "",
        doc: str = "",
    ) -> MemoryWindow:
        """`size` bytes of plain memory, zero at power-on except the bytes that `reset` gives by offset."""
        made = MemoryWindow(offset, size, reset=reset, read_only=read_only, name=name, doc=doc)
        self.add(made)
        return made

    def add(self, row: Declared) -> None:
        """Adds a declaration. DeclarationError once the map is compiled."""
        if self.compiled:
            raise DeclarationError(
                f"{self.label}: registers must be declared in the class body that makes the BAR, not after it"
            )
        row.slot = self.slot
        self.rows.append(row)

    # -- the compiled map -------------------------------------------------------------------------------------------

    def compile(self, owner: str) -> Layout:
        """Checks everything and makes the layout, once. `owner` ("Edu.mmio") begins every message."""
        if self._layout is not None:
            return self._layout
        if self.size <= 0:
            raise DeclarationError(f"{owner}: the size must be more than 0 bytes, not {self.size}")
        self.rows.sort(key=lambda row: row.offset)
        for index, row in enumerate(self.rows):
            self._adopt(owner, index, row)
        self._check_places(owner)
        rows = [row.row(self._where(owner, row)) for row in self.rows]
        self._layout = Layout(self.size, rows)
        return self._layout

    def at(self, offset: int) -> Declared | None:
        """The declaration that covers an offset, if any."""
        index = self.layout.index_at(offset)
        return None if index < 0 else self.rows[index]

    def describe(self) -> list[dict[str, object]]:
        """Every register and window as plain data, in order of offset."""
        return [row.describe(self.label) for row in sorted(self.rows, key=lambda row: row.offset)]

    def _adopt(self, owner: str, index: int, row: Declared) -> None:
        if not row.named and (row.read_hook or row.write_hook):
            raise DeclarationError(
                f"{owner}: the register at {row.offset:#x} must keep a name of its own, not lose it to its hook"
            )
        row.index = index
        row.name = row.name or f"{self.label}_{row.offset:#x}"
        row.check(self._where(owner, row))

    def _check_places(self, owner: str) -> None:
        end, before = 0, ""
        for row in self.rows:
            where = self._where(owner, row)
            if row.offset < end:
                raise DeclarationError(f"{where}: must begin at {end:#x} or later, not overlap {before}")
            end, before = row.offset + row.size, row.name
            if end > self.size:
                raise DeclarationError(f"{where}: must end within {self.size:#x} bytes, not at {end:#x}")

    @staticmethod
    def _where(owner: str, row: Declared) -> str:
        return f"{owner}.{row.name} at {row.offset:#x}"
