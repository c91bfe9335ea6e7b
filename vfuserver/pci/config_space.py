"""The configuration space of one function: 256 or 4096 bytes behind masks, owned byte by byte.

It is complete when its constructor returns: blocks are placed and linked, the byte-owner map, the reset image and the
masks are made, and the capability lists have been walked (S2.6). How an access works:

1. A read copies bytes: nothing computes them and nothing happens.
2. A write is cut into the largest naturally aligned pieces of 4, 2 or 1 bytes that stay within one owner (a naturally
   aligned piece never crosses a dword). Each piece goes through the masks, is stored whole, and is then seen by its
   owner's `on_write`. Bytes that nobody owns read zero and drop writes (S2.28).
3. After each piece the port learns whether what COMMAND and the power state allow has changed.

The device acts through the bound blocks: `config.find(Msi)`. Not thread-safe: one thread, and no await inside an
access, is what keeps requests whole. It must not know sessions, regions behind BARs, or any particular capability.
"""

import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeVar, cast

from vfuserver.errors import CommandError
from vfuserver.pci.assembly import assemble
from vfuserver.pci.bar import BarLayout, RomLayout
from vfuserver.pci.block import Block, Place, Write
from vfuserver.pci.capability import AnyCapability
from vfuserver.pci.fields import BYTE, BYTE_MASK, DWORD, WORD
from vfuserver.pci.header import STATUS_ERRORS, Header, InterruptPin, Status, as_pin
from vfuserver.pci.identity import PciIdentity
from vfuserver.pci.port import ENABLES, NO_COMMAND, Command, ConfigPort
from vfuserver.vfio import Later, PciIrq

_PIECES: Final = (DWORD, WORD, BYTE)
_MESSAGE_INTERRUPTS: Final = (PciIrq.MSI, PciIrq.MSIX)

B = TypeVar("B", bound=Block)


class ConfigSpace:
    """One function's configuration space. `always`: what is enabled whatever COMMAND says, D3hot excepted.

    DeclarationError for BARs that share a slot, capabilities that claim one byte or appear twice (naming both), and
    extended capabilities without the capability that extends the space.
    """

    def __init__(
        self,
        identity: PciIdentity,
        bars: Sequence[BarLayout] = (),
        capabilities: Sequence[AnyCapability] = (),
        *,
        port: ConfigPort,
        rom: RomLayout | None = None,
        interrupt_pin: int = InterruptPin.NONE,
        multifunction: bool = False,
        always: Command = NO_COMMAND,
    ) -> None:
        self.port = port
        self._always: Final = always & ENABLES
        declared = Header(identity, tuple(bars), rom, as_pin(interrupt_pin), multifunction)
        self._assembly: Final = assemble(declared, capabilities)
        self._values: Final = bytearray(self._assembly.reset)
        self._blocks: Final = tuple(self._bind(start, block) for start, block in self._assembly.blocks)
        self._owners: Final = self._owner_map()
        self._enables = self.enables
        if self._enables:
            port.enables_changed(NO_COMMAND, self._enables)

    def _bind(self, start: int, block: Block) -> Block:
        return block.bind(Place(start, memoryview(self._values)[start : start + block.length], self.port))

    def _owner_map(self) -> tuple[Block | None, ...]:
        owners: list[Block | None] = [None] * self.size
        for block in self._blocks:
            owners[block.start : block.start + block.length] = [block] * block.length
        return tuple(owners)

    @property
    def size(self) -> int:
        """256 bytes, or 4096 with the capability that extends the space (S2.5)."""
        return len(self._assembly.reset)

    @property
    def header(self) -> Header:
        """The header, alive."""
        return cast(Header, self._blocks[0])

    @property
    def capabilities(self) -> tuple[AnyCapability, ...]:
        """Every capability, alive, in list order, ordinary ones first."""
        return cast(tuple[AnyCapability, ...], self._blocks[1:])

    # -- access -------------------------------------------------------------------------------------------------

    def access(self, offset: int, count: int, data: bytes | None) -> bytes | Later | None:
        """A client's region access: `data` None reads `count` bytes, else writes them. Bytes from offset 0.

        A write that resets the function may return a Later: it has had its effect when that is done (S2.26).
        CommandError(EINVAL), before any effect, for count 0, an end beyond the space, or data of another length
        (S2.5). Read-only bits are dropped silently (S2.2).
        """
        if count <= 0 or offset < 0 or count > self.size - offset:
            raise CommandError(errno.EINVAL, f"configuration space has {self.size} bytes: no {count} at {offset:#x}")
        if data is None:
            return bytes(self._values[offset : offset + count])
        if len(data) != count:
            raise CommandError(errno.EINVAL, f"configuration write of {count} bytes carries {len(data)}")
        pieces = ((at, bytes(data[at - offset : at - offset + width])) for at, width in self.pieces(offset, count))
        return self._write_pieces(pieces)

    def read(self, offset: int, width: int) -> int:
        """The little-endian value of `width` bytes."""
        data = self.access(offset, width, None)
        assert isinstance(data, bytes)
        return int.from_bytes(data, "little")

    def write(self, offset: int, width: int, value: int) -> Later | None:
        """Writes a little-endian value of `width` bytes as a client would."""
        later = self.access(offset, width, value.to_bytes(width, "little"))
        assert not isinstance(later, bytes)
        return later

    def pieces(self, offset: int, count: int) -> Iterator[tuple[int, int]]:
        """How a write is cut: (offset, width) of each piece, in order (S2.4)."""
        end = offset + count
        while offset < end:
            width = next(width for width in _PIECES if self._is_piece(offset, width, end))
            yield offset, width
            offset += width

    def _is_piece(self, offset: int, width: int, end: int) -> bool:
        if offset % width or offset + width > end:
            return False
        owner = self._owners[offset]
        return all(other is owner for other in self._owners[offset : offset + width])

    def _write_pieces(self, pieces: Iterator[tuple[int, bytes]]) -> Later | None:
        """Writes one piece after the other; where one takes time, the others wait for it."""
        for offset, data in pieces:
            later = self._write_piece(offset, data)
            if later is not None:
                return later.then(lambda: self._write_pieces(pieces))
        return None

    def _write_piece(self, offset: int, data: bytes) -> Later | None:
        owner = self._owners[offset]
        if owner is None:
            return None
        old = owner.snapshot()
        self._store(offset, data)
        try:
            return owner.on_write(Write(owner.layout, offset - owner.start, data, old, owner.snapshot()))
        finally:
            self._announce()

    def _store(self, offset: int, data: bytes) -> None:
        for index, written in enumerate(data, offset):
            writable = self._assembly.writable[index]
            stored = self._values[index] & ~writable | written & writable
            self._values[index] = stored & ~(written & self._assembly.clear[index])

    # -- what it means ------------------------------------------------------------------------------------------

    @property
    def command(self) -> Command:
        """COMMAND as it reads."""
        return self.header.command

    @property
    def enables(self) -> Command:
        """IO, MEMORY and MASTER of COMMAND or always on, as far as the power state lets them through (S0.6)."""
        enables = self.command & ENABLES | self._always
        for capability in self.capabilities:
            enables &= capability.permits()
        return enables

    @property
    def memory_enabled(self) -> bool:
        """True while memory BARs answer: COMMAND's MEMORY bit or always, and a power state above D3hot (S0.6)."""
        return Command.MEMORY in self.enables

    @property
    def intx_disabled(self) -> bool:
        """True while INTX_DISABLE keeps the line from being signalled (S2.16)."""
        return Command.INTX_DISABLE in self.command

    def set_interrupt_status(self, asserted: bool) -> None:
        """Shows the INTx line in STATUS bit 3, whatever INTX_DISABLE says (S2.16)."""
        self.header.set_bits("status", Status.INTERRUPT, asserted)

    def report_errors(self, errors: Status) -> None:
        """Sets STATUS error bits, which the guest clears by writing 1 (S2.17)."""
        self.header.set_bits("status", errors & STATUS_ERRORS, True)

    def find(self, kind: type[B]) -> B | None:
        """The first capability of a class, alive: its methods act on this configuration space. None without one."""
        return next((block for block in self.capabilities if isinstance(block, kind)), None)

    def owner(self, offset: int) -> Block | None:
        """Who owns a byte: the header, a capability, or None for a gap (S2.7)."""
        return self._owners[offset]

    @property
    def image(self) -> bytes:
        """All bytes at this moment."""
        return bytes(self._values)

    @property
    def reset_image(self) -> bytes:
        """All bytes after power-on."""
        return self._assembly.reset

    # -- as data ------------------------------------------------------------------------------------------------

    def saved(self) -> dict[int, bytes]:
        """What blocks remember besides the bytes, by the offset of the block."""
        return {block.start: saved for block in self._blocks if (saved := block.saved())}

    def unlike(self, image: bytes, stores: Mapping[int, bytes]) -> list[str]:
        """What of another function's `image` and `saved()` cannot be this one's, register by register: bits that
        nothing ever changes (S2.31). Empty: restore() may have them."""
        if len(image) != self.size:
            return [f"configuration space must have {self.size} bytes, not {len(image)}"]
        found = [f"{self._label(at)} must be {self.image[at]:#04x}, not {image[at]:#04x}" for at in self._alien(image)]
        starts = {block.start: block for block in self._blocks}
        found += [f"there is no capability at {at:#x}" for at in stores if at not in starts]
        for start, block in starts.items():
            why = block.unlike(stores.get(start, b""))
            found += [f"{block.name} {why}"] if why else []
        return found

    def _alien(self, image: bytes) -> list[int]:
        bits = zip(image, self._values, self._assembly.constant, self._owners, strict=True)
        return [at for at, (new, old, mask, owner) in enumerate(bits) if (new ^ old) & (mask if owner else BYTE_MASK)]

    def _label(self, offset: int) -> str:
        owner = self._owners[offset]
        if owner is None:
            return f"configuration byte {offset:#x}"
        at = offset - owner.start
        field = next((field for field in owner.layout if field.offset <= at < field.end), None)
        return f"{owner.name}{'.' + field.name if field else ''} (byte {offset:#x})"

    def restore(self, image: bytes, stores: Mapping[int, bytes]) -> None:
        """Sets what `image` and saved() gave. The port learns of what is enabled now; interrupts are the device's."""
        self._values[:] = image
        for block in self._blocks:
            block.restore(stores.get(block.start, b""))
        self._announce()

    def reset(self) -> None:
        """Back to the power-on image, sticky bits excepted (S2.30).

        The port learns of enables and power states that end; interrupts are the device's to drop, before or after.
        """
        before = [block.snapshot() for block in self._blocks]
        image = bytes(
            value & sticky | reset & ~sticky
            for value, reset, sticky in zip(self._values, self._assembly.reset, self._assembly.sticky, strict=True)
        )
        self._values[:] = image
        for block, old in zip(self._blocks, before, strict=True):
            block.on_reset(old)
        self._announce()

    def _announce(self) -> None:
        old, new = self._enables, self.enables
        if old == new:
            return
        self._enables = new
        self.port.enables_changed(old, new)
        if Command.MASTER in new & ~old:
            for index in _MESSAGE_INTERRUPTS:
                self.port.interrupts_changed(index)
