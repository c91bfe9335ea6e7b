"""Doorbells: registers that a guest may ring without leaving it, where KVM signals an eventfd for a write.

    kick = mmio.wo(0x10)
    kick_by_eventfd = Doorbell(kick)

What a ring does is in `bound_doorbell`. It must not know devices, sessions or loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from inspect import iscoroutinefunction
from typing import Any

from vfuserver._core import Gate
from vfuserver.device.bar import Bar, BoundBar
from vfuserver.device.bound_doorbell import BoundDoorbell, Saved
from vfuserver.errors import DeclarationError
from vfuserver.registers import Declared, Joined, MemoryWindow


class Doorbell:
    """Declares that writes of a whole register may come by eventfd: `bell = Doorbell(mmio_register)`.

    `match`: only writes of this value do, and bring it. Without it the value is lost on the way, and a hook sees 0;
    with `shadow` the kernel leaves it in memory (no released kernel can; a client that cannot either goes on sending
    messages). A register array has one eventfd for each element. Whether an eventfd is used is the client's choice.
    """

    def __init__(self, register: Declared, *, match: int | None = None, shadow: bool = False) -> None:
        self.register = register
        self.match = match
        self.shadow = shadow

    def bar(self, where: str, bars: Iterable[Bar]) -> Bar:
        """The BAR that it is in. DeclarationError: none of the class, or the declaration makes no sense by itself."""
        row = self.register
        if not isinstance(row, Declared) or isinstance(row, MemoryWindow):
            raise DeclarationError(f"{where}: a Doorbell must be of a register, not of {type(row).__name__}")
        if self.match is not None and (self.shadow or not 0 <= self.match < 1 << 8 * row.width):
            raise DeclarationError(f"{where}: match must fit in {row.width} bytes, and must not have a shadow")
        if iscoroutinefunction(row.write_hook):
            raise DeclarationError(f"{where}: the hook of {row.name} must not be an async def: nobody waits for it")
        for bar in bars:
            if any(row is one for one in bar.rows):
                return bar
        raise DeclarationError(f"{where}: its register must be in a BAR of the class, not in another one's")

    def bind(self, device: str, bars: Mapping[int, BoundBar], gate: Gate) -> tuple[BoundDoorbell, ...]:
        """This doorbell of one device, an eventfd for each element."""
        row = self.register
        bar = self.bar(device, [bar.declared for bar in bars.values()])
        return tuple(
            BoundDoorbell(
                bars[bar.index].table,
                offset,
                row.width,
                match=self.match,
                shadow=self.shadow,
                io=bar.place.is_io,
                latest=row.joined is Joined.LATEST,
                gate=gate,
                where=f"{device}: {bar.label}+{offset:#x} ({row.name})",
            )
            for offset in range(row.offset, row.offset + row.size, row.width)
        )


def check_doorbells(owner: str, doorbells: Mapping[str, Doorbell], bars: Sequence[Bar]) -> None:
    """DeclarationError unless every doorbell makes sense, and no write would ring two (KVM would refuse the second)."""
    rung_by: dict[Declared, list[Doorbell]] = {}
    for name, doorbell in doorbells.items():
        where = f"{owner}.{name}"
        doorbell.bar(where, bars)
        others = rung_by.setdefault(doorbell.register, [])
        if any(None in (doorbell.match, other.match) or doorbell.match == other.match for other in others):
            raise DeclarationError(f"{where}: {doorbell.register.name} must have one Doorbell for a value, not two")
        others.append(doorbell)


class Doorbells:
    """All doorbells of one device."""

    def __init__(self, device: str, declared: Mapping[str, Doorbell], bars: Mapping[int, BoundBar], gate: Gate) -> None:
        self._bound = {name: one.bind(device, bars, gate) for name, one in declared.items()}
        places = [bar.declared for bar in bars.values()]
        self.by_name: Mapping[str, Sequence[BoundDoorbell]] = self._bound
        self._bar = {name: one.bar(device, places).index for name, one in declared.items()}

    def in_bar(self, index: int) -> tuple[BoundDoorbell, ...]:
        """Those of one BAR."""
        return tuple(one for name, bound in self._bound.items() if self._bar[name] == index for one in bound)

    def resume(self) -> None:
        """The device runs again: what was held is served."""
        for one in self._all():
            one.resume()

    def reset(self) -> None:
        """What was rung before the reset is as if it had not been."""
        for one in self._all():
            one.forget()

    def disconnect(self) -> None:
        """The client is gone, and its eventfds with it."""
        for one in self._all():
            one.disconnect()

    def close(self) -> None:
        """Drops the tables, too. Idempotent."""
        for one in self._all():
            one.close()

    def snapshot(self) -> dict[str, list[Saved]]:
        """What was rung and not served, by name."""
        return {name: [one.saved() for one in bound] for name, bound in self._bound.items()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Sets what snapshot() gave; it is served when the device runs."""
        for name, bound in self._bound.items():
            for one, rings in zip(bound, saved[name], strict=False):
                one.restore(rings)

    def _all(self) -> list[BoundDoorbell]:
        return [one for bound in self._bound.values() for one in bound]
