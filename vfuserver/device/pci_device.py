"""PciDevice: what a device author derives from, and the Backend that engines serve.

A class body declares identity, capabilities, BARs with registers, state, jobs, timers and options; an instance holds
their values behind the `vfio.Backend` contract. Its life: made (power-on) -> attach(client) -> detach() -> ... ->
close(); reset() at any time; stop() and run() when a migration moves it. It must not know messages, sockets or loops:
coroutines run on whatever loop is running.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import iscoroutinefunction
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from vfuserver._core import Gate
from vfuserver.device import handover, snapshot
from vfuserver.device.activity import Activity
from vfuserver.device.bar import TABLE_SLOT, Areas, Bar, BoundBar
from vfuserver.device.config_port import DevicePort
from vfuserver.device.declaration import Declaration, collect, device_name
from vfuserver.device.dma import Dma
from vfuserver.device.doorbell import Doorbells
from vfuserver.device.interrupts import Interrupts
from vfuserver.device.intx import IntxLine
from vfuserver.device.migration import DeviceMigration
from vfuserver.device.msix_table import TABLE, MsixTable
from vfuserver.device.neighbours import Neighbours
from vfuserver.device.option import parse_options
from vfuserver.device.rom import Rom, RomImage
from vfuserver.errors import DeclarationError, LocalError, UsageError
from vfuserver.pci.capability import AnyCapability
from vfuserver.pci.caps.msi_x import MsiX
from vfuserver.pci.caps.vendor_specific import VendorSpecific
from vfuserver.pci.identity import PciIdentity
from vfuserver.registers import Declared, MemoryWindow
from vfuserver.vfio import (
    ABSENT,
    PCI_NUM_REGIONS,
    Backend,
    Client,
    Later,
    MigrationState,
    PciRegion,
    Region,
    RegionFlags,
    ResetReason,
)

if TYPE_CHECKING:
    from vfuserver._core import ReadHook, WriteHook
    from vfuserver.device.card import Card
    from vfuserver.pci.error_report import ErrorMessage, PciError

_PATIENCE: Final = 0.0005
"""Seconds between two looks at whether DMA has ended."""


class PciDevice(Backend):
    """Base class of device models.

    Class attributes: `identity` (required), `capabilities`, `intx = Intx()`, `rom = Rom(file)`, `Bar`s with registers,
    `State`, `Option`, `Doorbell`, methods under `@job` and `@timer`. With `decodes_always` BARs answer, with
    `masters_always` DMA and message interrupts leave, whatever COMMAND says (not in D3hot): for clients that never
    write it (S2.15). A base class that is no device itself says `class Base(PciDevice, abstract=True)`. Override
    `on_reset`, `on_vendor_write`, `mappable_areas`, `on_save`, `check_load` and `on_load` as needed.

    Raises DeclarationError at class creation; UsageError when made with an option that does not exist.
    """

    identity: ClassVar[PciIdentity]
    capabilities: ClassVar[Sequence[AnyCapability]] = ()
    decodes_always: ClassVar[bool] = False
    masters_always: ClassVar[bool] = False
    rom: ClassVar[Rom | None] = None
    declaration: ClassVar[Declaration]
    device_name: ClassVar[str] = "device"
    compatible: ClassVar[str] = ""
    """What its streams are of (S3.16); without it `device_name`."""
    migrates: ClassVar[bool] = True
    """False: the device has state that it does not declare, so it cannot be saved (S3.2)."""
    migration: DeviceMigration | None = None
    card: Card | None = None
    """What the function is one of, with others beside it; None for a device of its own."""
    function_number: int = 0

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        super().__init_subclass__()
        if "device_name" not in cls.__dict__:
            cls.device_name = device_name(cls.__name__)
        if not abstract:
            cls.declaration = collect(cls, _RESERVED)

    def __init__(
        self, card: Card | None = None, /, *, name: str | None = None, rom: Rom | str | None = None, **options: object
    ) -> None:
        """Powers the device on. `name` is what messages call it; `options` are declared Options, as text or typed.

        A card passes itself: the device is the next one of its functions. `rom`, or the file of that name, replaces
        the class's own; UsageError if it cannot be read.
        """
        declared = self.declaration
        if card is not None:
            self.card, self.function_number = card, len(card.functions)
        self.name = name or self.device_name
        self.log = logging.getLogger(f"vfuserver.device.{self.name}")
        self.gate = Gate()
        self.dma = Dma(self.gate)
        self.activity = Activity(self.name)
        self.neighbours = Neighbours(self)
        self.client: Client | None = None
        self.__dict__.update(parse_options(self.device_name, declared.options, options))
        self.rom_image = declared.rom if rom is None else _loaded(rom)  # before anything owns a descriptor
        self._reset_state()
        self.bars = {bar.index: self._bind_bar(bar) for bar in declared.bars}
        self.io_events = Doorbells(self.name, declared.doorbells, self.bars, self.gate)
        capabilities = [self._bind_capability(capability) for capability in declared.capabilities]
        self.config = declared.config_space(
            DevicePort(self),
            capabilities,
            multifunction=card is not None and card.multifunction,
            rom=self.rom_image,
        )
        self.interrupts = self._make_interrupts()
        self.irqs = self.interrupts.infos()
        self.regions = self._make_regions()
        self._bind_work()
        self.migration = DeviceMigration(self) if self.migrates else None
        self.on_reset()

    @classmethod
    def stream_name(cls) -> str:
        """What its streams say that they are of, and must say to be loaded (S3.16)."""
        return cls.compatible or cls.device_name

    # -- what an author overrides -------------------------------------------------------------------------------

    def on_reset(self) -> None:
        """Called at power-on and at the end of each reset, when everything declared has its first value again."""

    def on_vendor_write(self, offset: int, data: bytes) -> None:
        """Called after a write into the vendor-specific capability; `offset` counts from its first byte."""

    def mappable_areas(self, bar: Bar) -> Areas:
        """What a client may map of a backed BAR, as (offset, size); asked once, when the device is made."""
        return bar.areas

    def on_save(self) -> None:
        """Called before the device is saved, when it has stopped: what is not in State yet belongs there now."""

    def check_load(self, state: Mapping[str, Any]) -> None:
        """Called before a load, with the State values that it would set, by name: raise ValueError, which says why,
        for what this device must not run with. The device is as before then."""

    def on_load(self) -> None:
        """Called after a load, before the device runs: what follows from State is made here. It must not fail: the
        device would be of no use until it is reset."""

    # -- what an author calls -----------------------------------------------------------------------------------

    def interrupt(self, vector: int = 0) -> None:
        """Raises a vector on MSI-X if the client has armed it, else on MSI, else asserts INTx (S2.19, S2.21).

        A vector that cannot be sent is pending until it can. LocalError for one that the device does not declare.
        """
        self.interrupts.raise_(vector)

    def report_error(self, error: PciError, tlp_header: bytes = b"") -> ErrorMessage | None:
        """Shows an error in DEVSTA and AER, as far as there are any, and reports it (PCIe 5.0, 6.2.5).

        `tlp_header`: up to 16 bytes of the packet that it is about. Returns the message that left: None when the guest
        masks the error or has not enabled its report. What is not correctable pulses the ERR interrupt then, upon
        which QEMU stops the machine.
        """
        from vfuserver.pci.error_report import ErrorMessage, report  # and two capabilities, which few devices have

        message = report(self.config, error, tlp_header)
        if message in (ErrorMessage.NON_FATAL, ErrorMessage.FATAL):
            self.interrupts.error()
        return message

    # -- the contract -------------------------------------------------------------------------------------------

    def attach(self, client: Client) -> None:
        """A client has come. LocalError while another one is attached."""
        if self.client is not None:
            raise LocalError(f"{self.name}: a client is attached already; detach() it first")
        self.client = client
        self.dma.attach(client)
        self.interrupts.attach(client)
        self.activity.kick()

    def detach(self) -> None:
        """The client is gone: DMA fails with ENODEV, interrupts become pending, state stays. Idempotent."""
        if self.client is None:
            return
        self.interrupts.attach(None)
        self.io_events.disconnect()
        beside = [self.neighbours, *self.neighbours]
        self.client = None
        for one in beside:
            one.look()
        self.dma.detach()
        self.activity.client_lost()

    def interrupts_ready(self, index: int, start: int, count: int) -> None:
        """SET_IRQS armed or unmasked vectors: what is pending there, and an asserted INTx, is signalled now."""
        self.interrupts.ready(index, start, count)

    def reset(self, reason: ResetReason) -> Later | None:
        """The device's one reset: jobs and timers end, then registers, state, interrupts and configuration space
        return to their power-on values, then on_reset(). Eventfds, mappings and BAR files stay (S2.30). A migration is
        over, and the device runs (S3.6)."""
        self.log.info("%s: reset (%s)", self.name, reason.value)
        self.lose_state()
        self.config.reset()
        if self.migration is not None:
            self.migration.reset()
        self.migration_state = MigrationState.RUNNING
        self.on_reset()
        return None

    def lose_state(self, *, memory: bool = True) -> None:
        """Ends what goes on; everything but configuration space has its power-on value, and on_reset() is not called:
        what a load begins with, which sets all `memory` of BARs itself."""
        self._end_work()
        self.io_events.reset()
        self.interrupts.reset()
        for bar in self.bars.values():
            bar.reset(memory=memory)
        self._reset_state()

    def stop(self) -> None:
        """Stops the device for migration: no hooks, no DMA, no interrupts; jobs are held at their next await and
        timers stand still (S3.9). Copies under way in other threads are waited for. Idempotent."""
        self.halt()
        self.neighbours.stopped()

    def halt(self) -> None:
        """As stop(), for a moment that the devices beside it do not notice. Idempotent."""
        self.gate.clear(Gate.RUNNING)
        self.dma.drain()
        self.activity.hold()

    def run(self) -> None:
        """Lets a stopped device go on, and starts what waited for a loop; pending interrupts are sent. Idempotent."""
        self.gate.clear(Gate.QUIET)
        self.gate.set(Gate.RUNNING)
        self.neighbours.set_going()
        self.activity.release()
        self.interrupts.resume()
        self.io_events.resume()

    async def quiesce(self) -> None:
        """Waits until DMA that is under way has ended; then none begins, jobs are held, timers stand still, interrupts
        become pending and doorbells wait, but registers answer (S3.10). While the device is stopped meanwhile, it waits
        for that, too. Cancelled, the device runs as before."""
        try:
            while not self._runs_dry():
                await asyncio.sleep(_PATIENCE)
        except BaseException:
            if self.gate.word & Gate.RUNNING:
                self.activity.release()
            raise
        self.be_quiet()

    def _runs_dry(self) -> bool:
        if not self.gate.word & Gate.RUNNING:
            return False
        self.activity.hold(gently=True, answers=True)
        return not self.dma.outstanding

    def be_quiet(self) -> None:
        """The device as quiesce() leaves it, at once: of a device that runs and has no DMA under way, or of one that
        is stopped."""
        self.activity.hold(answers=True)
        self.gate.set(Gate.QUIET)
        self.gate.set(Gate.RUNNING)
        self.neighbours.set_going()

    def pause(self, at_once: bool = False) -> Later | None:
        """Stands still for hand_over(), in any migration state: jobs, timers and interrupts are held, and time does not
        count. Accesses must not come.

        `at_once`: DMA that is under way is held, too, and so is an access that waits for its answer: who takes over
        begins the one anew, and knows nothing of the other. CommandError: EBUSY, ENOTSUP (state is not declared).
        """
        handover.check_portable(self)
        assert self.migration is not None
        return self.migration.pause(at_once)

    def resume(self) -> None:
        """Goes on after pause() or take_over(): as it was, in its migration state. Idempotent."""
        if self.migration is not None:
            self.migration.resume()

    def hand_over(self) -> dict[str, Any]:
        """Everything that the paused device is; on_save() is called, and nothing else changes.

        CommandError: ENOTSUP (as pause()), EIO (it cannot be saved). LocalError: it is not paused.
        """
        return handover.hand_over(self)

    def take_over(self, carried: Any) -> None:
        """Goes on as the device that hand_over() told of, paused: in place of power-on, before a client is attached.

        CommandError(EINVAL) says what differs, a line each; nothing has changed. MigrationError: on_load() failed, the
        device is in ERROR. LocalError: it was not just made.
        """
        handover.take_over(self, carried)

    def snapshot(self) -> dict[str, Any]:
        """Everything declared, as plain data: registers, state, jobs, timers, interrupts. Stop the device first."""
        return snapshot.take(self)

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Sets what snapshot() gave; jobs start again from their arguments. CommandError(EINVAL) if it is not of
        this class. Restore into a stopped device, then run() it."""
        self._end_work()
        snapshot.put(self, saved)

    def dump(self) -> dict[str, Any]:
        """Also what goes on by itself, and which interrupts are pending."""
        values, declared = vars(self), self.declaration
        return {
            **super().dump(),
            "jobs": {name: values[name].count for name in declared.jobs},
            "timers": {name: values[name].armed for name in declared.timers},
            "accesses": self.activity.answering,
            "dma": self.dma.outstanding,
            "interrupts": {"index": self.interrupts.mode().name, "pending": self.interrupts.pending()},
        }

    def describe_access(self, region: int, offset: int) -> str:
        """The register's name and place, such as `BAR0+0x18 (raise)`."""
        if region == PciRegion.CONFIG:
            return f"config+{offset:#x}"
        bar = self.bars.get(region)
        row = bar.declared.at(offset) if bar is not None else None
        return f"BAR{region}+{offset:#x}" + (f" ({row.name})" if row is not None else "")

    def close(self) -> None:
        """Ends jobs and timers, drops the registers, closes the BARs' files. Idempotent.

        Of a paused device another process may have the files by now: what its jobs write as they end is not seen."""
        self.detach()
        self.neighbours.close()
        if self.migration is not None and self.migration.paused:
            for bar in self.bars.values():
                bar.let_go()
        self._end_work()
        self.regions = ()
        self.migration = None
        self.io_events.close()
        self.interrupts.table = None
        for bar in self.bars.values():
            bar.close()
        for name in [name for name in self.__dict__ if name.startswith(TABLE_SLOT)]:
            del self.__dict__[name]

    # -- making -------------------------------------------------------------------------------------------------

    def _bind_bar(self, bar: Bar) -> BoundBar:
        hooks = {row.index: self._hooks(bar, row) for row in bar.rows if row.read_hook or row.write_hook}
        areas = self.mappable_areas(bar) if bar.backing else ()
        bound = BoundBar(bar, self.name, hooks, self.gate, areas)
        self.__dict__[bar.name] = bound
        self.__dict__[bar.slot] = bound.table
        for row in bar.rows:
            if isinstance(row, MemoryWindow):
                self.__dict__[row.key] = bound.windows[row.index]
        return bound

    def _hooks(self, bar: Bar, row: Declared) -> tuple[ReadHook | None, WriteHook | None]:
        where = f"{bar.label}+{row.offset:#x} ({row.name})"
        return self._hook(row.read_hook, where), self._hook(row.write_hook, where)

    def _hook(self, function: Callable[..., Any] | None, where: str) -> Callable[..., Any] | None:
        if function is None:
            return None
        bound = self._resolved(function)
        if not iscoroutinefunction(bound):
            return bound
        return lambda *args: self.activity.answer(bound(*args), where)

    def _resolved(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A hook as this class has it: a subclass may override a method."""
        own = any(vars(base).get(function.__name__) is function for base in type(self).__mro__)
        bound: Callable[..., Any] = getattr(self, function.__name__) if own else function.__get__(self)
        return bound

    def _waits(self, row: Declared) -> bool:
        """Whether one of a register's hooks, as this class has it, is an async def."""
        hooks = (self._resolved(hook) for hook in (row.read_hook, row.write_hook) if hook is not None)
        return any(iscoroutinefunction(hook) for hook in hooks)

    def _bind_work(self) -> None:
        for name, job in self.declaration.jobs.items():
            self.__dict__[name] = job.bind(self, self.activity)
        for name, timer in self.declaration.timers.items():
            self.__dict__[name] = timer.bind(self, self.activity)

    def _bind_capability(self, capability: AnyCapability) -> AnyCapability:
        if isinstance(capability, VendorSpecific) and capability.handler is None:
            return replace(capability, handler=lambda write: self.on_vendor_write(write.offset, write.data))
        return capability

    def _make_interrupts(self) -> Interrupts:
        line = None
        if self.declaration.intx is not None:
            line = self.__dict__[self.declaration.intx_name] = IntxLine(self.config, self.gate)
        return Interrupts(self.config, self.gate, line, self._msix_table())

    def _msix_table(self) -> MsixTable | None:
        capability = self.config.find(MsiX)
        if capability is None:
            return None
        table, pba = self.bars[capability.table_bar], self.bars[capability.pba_in]
        row = next(row.index for row in table.declared.rows if row.name == TABLE)
        pending = pba.windows[pba.declared.layout.index_at(capability.pba_offset)]
        return MsixTable(table.table, row, pending, lambda: capability.masked_all)

    def _make_regions(self) -> tuple[Region, ...]:
        regions = [ABSENT] * PCI_NUM_REGIONS
        for index, bar in self.bars.items():
            waits = tuple(row.name for row in bar.declared.rows if self._waits(row))
            regions[index] = replace(bar.region(), io_events=self.io_events.in_bar(index), waits=waits)
        if self.rom_image is not None:
            self.rom_image.warn(self.identity, self.name, self.log)
            regions[PciRegion.ROM] = self.rom_image.region(self.gate)
        flags = RegionFlags.READ | RegionFlags.WRITE
        regions[PciRegion.CONFIG] = Region(self.config.size, flags, access=self.config.access)
        return tuple(regions)

    # -- state --------------------------------------------------------------------------------------------------

    def _reset_state(self) -> None:
        for name, state in self.declaration.states.items():
            self.__dict__[name] = state.fresh()

    def _end_work(self) -> None:
        for name in self.declaration.jobs:
            self.__dict__[name].cancel()
        for name in self.declaration.timers:
            self.__dict__[name].stop()
        self.activity.end_all()


def _loaded(rom: Rom | str) -> RomImage:
    try:
        return (rom if isinstance(rom, Rom) else Rom(rom)).load(Path(), "the expansion ROM")
    except DeclarationError as error:
        raise UsageError(str(error)) from error


_RESERVED = (
    frozenset(dir(PciDevice))
    | {"name", "log", "gate", "dma", "activity", "neighbours", "client", "bars", "config", "irqs", "rom_image"}
    | {
        "io_events",
        "regions",
        "interrupts",
    }
)
"""Names that a declaration must not take."""
