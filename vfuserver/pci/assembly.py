"""From declarations to one configuration space's bytes: placement, lists, the reset image and the masks.

Everything here happens once, when a device is made, and is immutable afterwards (S2.1, S2.6). It must not know
accesses, live values or ports.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vfuserver.errors import DeclarationError, LocalError
from vfuserver.pci.bar import BarLayout
from vfuserver.pci.block import Block
from vfuserver.pci.capability import AnyCapability, Capability, ExtendedCapability
from vfuserver.pci.header import Header
from vfuserver.pci.placement import (
    CONFIG_SIZE,
    EXTENDED,
    EXTENDED_CONFIG_SIZE,
    FIRST_EXTENDED_CAPABILITY,
    ORDINARY,
    Placed,
    place,
)
from vfuserver.pci.walk import walk, walk_extended


@dataclass(frozen=True, slots=True)
class Assembly:
    """What every access works on: the blocks with their offsets (the header first), the image and the masks."""

    blocks: tuple[tuple[int, Block], ...]
    reset: bytes
    writable: bytes
    clear: bytes
    sticky: bytes
    constant: bytes


def assemble(header: Header, capabilities: Sequence[AnyCapability]) -> Assembly:
    """Lays out one configuration space.

    DeclarationError for BARs that share a slot, capabilities that claim one byte, a second capability of a class that
    is not repeatable (each naming both), extended capabilities in a space of 256 bytes, or none of these at 0x100.
    """
    _check_bars(header.bars)
    _check_capabilities(capabilities, header.bars)
    capabilities = [one.beside(capabilities) for one in capabilities]
    chain = place([one for one in capabilities if isinstance(one, Capability)], ORDINARY)
    extended = place([one for one in capabilities if isinstance(one, ExtendedCapability)], EXTENDED)
    return _compose(replace(header, first_capability=chain[0].start if chain else 0), chain, _from_first(extended))


def _compose(header: Header, chain: Sequence[Placed], extended: Sequence[Placed]) -> Assembly:
    placed = (*chain, *extended)
    blocks: list[tuple[int, Block]] = [(0, header), *((one.start, one.capability) for one in placed)]
    size = EXTENDED_CONFIG_SIZE if any(one.capability.extends for one in placed) else CONFIG_SIZE
    reset = _merge(size, ((start, block.image()) for start, block in blocks))
    for one, following in (*_links(chain), *_links(extended)):
        _put(reset, one.start, one.capability.header_bytes(following))
    _verify(reset, chain, extended)
    return Assembly(
        blocks=tuple(blocks),
        reset=bytes(reset),
        writable=bytes(_merge(size, ((start, block.write_mask()) for start, block in blocks))),
        clear=bytes(_merge(size, ((start, block.w1c_mask()) for start, block in blocks))),
        sticky=bytes(_merge(size, ((start, block.layout.sticky) for start, block in blocks))),
        constant=bytes(_merge(size, ((start, block.layout.constant) for start, block in blocks))),
    )


def _merge(size: int, parts: Iterable[tuple[int, bytes]]) -> bytearray:
    image = bytearray(size)
    for start, part in parts:
        _put(image, start, part)
    return image


def _put(image: bytearray, start: int, part: bytes) -> None:
    image[start : start + len(part)] = part


def _links(chain: Sequence[Placed]) -> Iterable[tuple[Placed, int]]:
    following = [one.start for one in chain[1:]]
    return zip(chain, (*following, 0), strict=False)


def _verify(image: bytearray, chain: Sequence[Placed], extended: Sequence[Placed]) -> None:
    for found, meant in ((walk(image), chain), (walk_extended(image), extended)):
        if [link.offset for link in found] != [one.start for one in meant]:
            raise LocalError(f"the capability list is {found}, not {[str(one) for one in meant]}")


def _from_first(extended: Sequence[Placed]) -> Sequence[Placed]:
    """The list with the capability at 0x100 in front: extended lists have no pointer, they start there."""
    if extended and all(one.start != FIRST_EXTENDED_CAPABILITY for one in extended):
        raise DeclarationError(
            f"one extended capability must lie at {FIRST_EXTENDED_CAPABILITY:#x}, not {', '.join(map(str, extended))}"
        )
    return sorted(extended, key=lambda one: one.start != FIRST_EXTENDED_CAPABILITY)


def _check_bars(bars: Sequence[BarLayout]) -> None:
    owners: dict[int, BarLayout] = {}
    for bar in bars:
        for slot in bar.slots:
            if slot in owners:
                raise DeclarationError(f"BAR slot {slot} must have one owner, not {owners[slot]} and {bar}")
            owners[slot] = bar


def _check_capabilities(capabilities: Sequence[AnyCapability], bars: Sequence[BarLayout]) -> None:
    extends = any(one.extends for one in capabilities)
    seen: dict[tuple[bool, int], AnyCapability] = {}
    for one in capabilities:
        one.check(bars)
        if len(one.layout) > one.length:
            raise DeclarationError(f"{one.name}: registers must end within {one.length} bytes, not {len(one.layout)}")
        key = (isinstance(one, ExtendedCapability), one.id)
        if key in seen and not one.repeatable:
            raise DeclarationError(f"a function must have one {one.name}, not {seen[key]} and {one}")
        seen[key] = one
        if isinstance(one, ExtendedCapability) and not extends:
            raise DeclarationError(f"{one.name} must have 4096 bytes of configuration space (PciExpress), not 256")
