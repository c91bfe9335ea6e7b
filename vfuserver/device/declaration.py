"""What a device class declares, collected and checked once, when the class statement ends.

Order: names, then BARs (with the MSI-X structures that a capability puts into them), then a configuration space made
from all of it, which finds what does not fit. It must not know instances.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vfuserver._core import Gate
from vfuserver.device.bar import Bar
from vfuserver.device.doorbell import Doorbell, check_doorbells
from vfuserver.device.intx import Intx
from vfuserver.device.job import Job
from vfuserver.device.msix_table import declare
from vfuserver.device.option import Option
from vfuserver.device.rom import Rom, RomImage
from vfuserver.device.state import State
from vfuserver.device.timer import Timer
from vfuserver.errors import DeclarationError
from vfuserver.pci.capability import AnyCapability
from vfuserver.pci.caps.msi_x import MsiX
from vfuserver.pci.config_space import ConfigSpace
from vfuserver.pci.identity import PciIdentity
from vfuserver.pci.port import NO_COMMAND, Command, ConfigPort, GatePort
from vfuserver.registers import Declared

T = TypeVar("T")

_ALWAYS = {"decodes_always": Command.IO | Command.MEMORY, "masters_always": Command.MASTER}
"""Class attributes, and what they enable whatever COMMAND says."""

_FIELDS = (Bar, Doorbell, Intx, Job, Option, State, Timer, Declared)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One device class as data."""

    identity: PciIdentity
    capabilities: tuple[AnyCapability, ...]
    bars: tuple[Bar, ...]
    intx: Intx | None
    intx_name: str
    states: Mapping[str, State[Any]]
    options: Mapping[str, Option[Any]]
    jobs: Mapping[str, Job[Any]]
    timers: Mapping[str, Timer]
    doorbells: Mapping[str, Doorbell]
    always: Command = NO_COMMAND
    rom: RomImage | None = None

    @property
    def interrupt_pin(self) -> int:
        """0 without INTx, else 1 to 4."""
        return self.intx.number if self.intx is not None else 0

    def config_space(
        self,
        port: ConfigPort | None = None,
        capabilities: Sequence[AnyCapability] = (),
        *,
        multifunction: bool = False,
        rom: RomImage | None = None,
    ) -> ConfigSpace:
        """A configuration space of this class; without a port one that belongs to no device. `rom`: instead of the
        class's own."""
        rom = rom or self.rom
        return ConfigSpace(
            self.identity,
            [bar.place for bar in self.bars],
            capabilities or self.capabilities,
            port=port or GatePort(Gate()),
            interrupt_pin=self.interrupt_pin,
            multifunction=multifunction,
            rom=rom.layout if rom is not None else None,
            always=self.always,
        )


def collect(cls: type, reserved: frozenset[str]) -> Declaration:
    """Everything that `cls` and its bases declare. DeclarationError names the class and the field."""
    members = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    owner = cls.__name__
    for name, value in members.items():
        if isinstance(value, _FIELDS) and name in reserved:
            raise DeclarationError(f"{owner}.{name}: must have another name, not one that PciDevice uses itself")
        if isinstance(value, State | Option | Job | Timer):
            value.check(f"{owner}.{name}")
    identity = members.get("identity")
    if not isinstance(identity, PciIdentity):
        raise DeclarationError(f"{owner}.identity must be a PciIdentity, not {_kind(identity)}")
    capabilities = _capabilities(owner, members.get("capabilities", ()))
    bars = _bars(owner, members, capabilities)
    doorbells = _of(members, Doorbell)
    check_doorbells(owner, doorbells, bars)
    lines = _of(members, Intx)
    if len(lines) > 1:
        raise DeclarationError(f"{owner}: one Intx must be declared, not {' and '.join(lines)}")
    intx_name, intx = next(iter(lines.items()), ("", None))
    made = Declaration(
        identity=identity,
        capabilities=capabilities,
        bars=bars,
        intx=intx,
        intx_name=intx_name,
        states=_of(members, State),
        options=_of(members, Option),
        jobs=_of(members, Job),
        timers=_of(members, Timer),
        doorbells=doorbells,
        always=_always(owner, members),
        rom=_rom(cls),
    )
    _check_config_space(owner, made)
    return made


def device_name(class_name: str) -> str:
    """The name in messages and on the command line: GpioIdio16 is gpio-idio-16."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])", "-", class_name).lower()


def _bars(owner: str, members: Mapping[str, Any], capabilities: Sequence[AnyCapability]) -> tuple[Bar, ...]:
    bars: dict[int, Bar] = {}
    for name, bar in _of(members, Bar).items():
        for index in bar.place.slots:
            if index in bars:
                raise DeclarationError(f"{owner}.{name}: BAR{index} must have one owner, not {bars[index].name} too")
        bars.update(dict.fromkeys(bar.place.slots, bar))
    for capability in capabilities:
        if isinstance(capability, MsiX):
            declare(capability, bars, owner)
    own = tuple(dict.fromkeys(bars.values()))
    for bar in own:
        bar.compile(f"{owner}.{bar.name}")
        bar.check_areas(f"{owner}.{bar.name}")
    return own


def _capabilities(owner: str, declared: object) -> tuple[AnyCapability, ...]:
    if not isinstance(declared, list | tuple):
        raise DeclarationError(f"{owner}.capabilities must be a tuple of capabilities, not {_kind(declared)}")
    for one in declared:
        if not isinstance(one, AnyCapability):
            raise DeclarationError(f"{owner}.capabilities must hold capabilities such as Msi(), not {_kind(one)}")
    return tuple(declared)


def _always(owner: str, members: Mapping[str, Any]) -> Command:
    always = NO_COMMAND
    for name, enables in _ALWAYS.items():
        value = members.get(name, False)
        if not isinstance(value, bool):
            raise DeclarationError(f"{owner}.{name} must be True or False, not {_kind(value)}")
        if value:
            always |= enables
    return always


def _rom(cls: type) -> RomImage | None:
    owner = next((base for base in cls.__mro__ if "rom" in vars(base)), cls)
    declared = vars(owner).get("rom")
    if declared is None:
        return None
    if not isinstance(declared, Rom):
        raise DeclarationError(f"{cls.__name__}.rom must be a Rom, not {_kind(declared)}")
    home = getattr(sys.modules.get(owner.__module__), "__file__", None)
    return declared.load(Path(home).parent if home else Path(), f"{cls.__name__}.rom")


def _check_config_space(owner: str, made: Declaration) -> None:
    try:
        made.config_space()
    except DeclarationError as error:
        raise DeclarationError(f"{owner}: {error}") from error


def _of(members: Mapping[str, Any], kind: type[T]) -> dict[str, T]:
    return dict(_each(members, kind))


def _each(members: Mapping[str, Any], kind: type[T]) -> Iterator[tuple[str, T]]:
    for name, value in members.items():
        if isinstance(value, kind):
            yield name, value


def _kind(value: object) -> str:
    return "missing" if value is None else repr(value)
