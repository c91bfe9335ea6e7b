"""Configuration space as structured data, for `vfuserver describe` and whoever asks what a device is made of.

Everything comes from the same rows that serve accesses. `dataclasses.asdict` makes it JSON. It must not know any
particular capability, nor print anything.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vfuserver.pci.bar import (
    BAR_OFFSET,
    LAST_BAR,
    ROM_SMALLEST,
    TYPE_IO,
    TYPE_MEMORY_64,
    BarKind,
    BarLayout,
    RomLayout,
)
from vfuserver.pci.block import Block
from vfuserver.pci.capability import AnyCapability, ExtendedCapability
from vfuserver.pci.config_space import ConfigSpace
from vfuserver.pci.fields import DWORD, Field
from vfuserver.pci.header import Header
from vfuserver.pci.identity import PciIdentity

_ANY_SIZE = 16
"""Of a BAR whose size an image does not tell."""


@dataclass(frozen=True, slots=True)
class FieldView:
    """One register: offset and width in bytes, the value now and after reset, what a write does, its parts by name."""

    name: str
    offset: int
    width: int
    value: int
    reset: int
    writable: int
    clear: int
    hooked: int
    bits: Mapping[str, int | str]


@dataclass(frozen=True, slots=True)
class BarView:
    """One BAR; `size` in bytes."""

    index: int
    kind: str
    size: int
    prefetchable: bool


@dataclass(frozen=True, slots=True)
class CapabilityView:
    """One capability: where it lies, how long it is, its registers (offsets from its start)."""

    name: str
    id: int
    extended: bool
    offset: int
    length: int
    fields: tuple[FieldView, ...]


@dataclass(frozen=True, slots=True)
class ConfigView:
    """A whole configuration space; sizes in bytes, interrupt pin "NONE" or "A" to "D"."""

    size: int
    identity: PciIdentity
    interrupt_pin: str
    multifunction: bool
    bars: tuple[BarView, ...]
    rom_size: int
    header: tuple[FieldView, ...]
    capabilities: tuple[CapabilityView, ...]


def describe(config: ConfigSpace) -> ConfigView:
    """What a configuration space is made of, with its values at this moment."""
    header = config.header
    return ConfigView(
        size=config.size,
        identity=header.identity,
        interrupt_pin=header.interrupt_pin.name,
        multifunction=header.multifunction,
        bars=tuple(_bar(bar) for bar in sorted(header.bars, key=lambda bar: bar.index)),
        rom_size=0 if header.rom is None else header.rom.size,
        header=_fields(header),
        capabilities=tuple(_capability(one) for one in config.capabilities),
    )


def header_of(image: bytes) -> tuple[FieldView, ...]:
    """The header in anybody's image, as far as that goes; BARs that read zero are left out, and no reset is known."""
    header = Header(PciIdentity(0, 0), tuple(_bars_of(image)), RomLayout(ROM_SMALLEST))
    return tuple(_field(field, field.load(image)) for field in header.layout if field.end <= len(image))


def _bars_of(image: bytes) -> Iterator[BarLayout]:
    index = 0
    while index <= LAST_BAR:
        register = int.from_bytes(image[BAR_OFFSET + DWORD * index :][:DWORD], "little")
        wide = register & (TYPE_IO | TYPE_MEMORY_64) == TYPE_MEMORY_64 and index < LAST_BAR
        kind = BarKind.MEMORY64 if wide else BarKind.IO if register & TYPE_IO else BarKind.MEMORY32
        bar = BarLayout(index, _ANY_SIZE, kind)
        if register or wide:
            yield bar
        index += len(bar.slots)


def _bar(bar: BarLayout) -> BarView:
    return BarView(bar.index, bar.kind.value, bar.size, bar.prefetchable)


def _capability(one: AnyCapability) -> CapabilityView:
    extended = isinstance(one, ExtendedCapability)
    return CapabilityView(one.name, one.id, extended, one.start, one.length, _fields(one))


def _fields(block: Block) -> tuple[FieldView, ...]:
    return tuple(_field(field, block.get(field.name)) for field in block.layout)


def _field(field: Field, value: int) -> FieldView:
    return FieldView(
        field.name,
        field.offset,
        field.width,
        value,
        field.reset,
        field.writable,
        field.clear,
        field.hooked,
        _parts(field, value),
    )


def _parts(field: Field, value: int) -> dict[str, int | str]:
    if field.bits is None:
        return {}
    meanings = dict(field.meanings)
    parts: dict[str, int | str] = {}
    for name, mask in field.bits.__members__.items():
        part = (value & mask) >> (mask & -mask).bit_length() - 1
        known = {int(member): member.name for member in meanings.get(int(mask), ())}
        parts[name] = known.get(part, part)
    return parts
