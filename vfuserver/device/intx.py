"""INTx: a level, shown in STATUS, signalled by an eventfd that only knows edges.

The line is asserted until the device de-asserts it. Each time the client may have lost sight of it (it armed or
unmasked the index, the guest enabled INTx again, the device runs again) an asserted line is signalled once more.
It must not know registers or which event asserts it.
"""

from __future__ import annotations

from typing import Final, Self, overload

from vfuserver._core import Gate
from vfuserver.errors import DeclarationError
from vfuserver.pci.config_space import ConfigSpace
from vfuserver.vfio import Client, PciIrq

_ACTING: Final = Gate.RUNNING | Gate.QUIET
_PINS: Final = {"A": 1, "B": 2, "C": 3, "D": 4}


class Intx:
    """Declares the legacy interrupt: `intx = Intx(pin="A")` (PCI 3.0, 6.2.4). On an instance: an IntxLine."""

    def __init__(self, pin: str = "A") -> None:
        if pin not in _PINS:
            raise DeclarationError(f"the pin of Intx must be A, B, C or D, not {pin!r}")
        self.pin = pin
        self.number = _PINS[pin]

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> IntxLine: ...
    def __get__(self, instance: object | None, owner: type) -> Self | IntxLine:
        """The declaration on the class; an instance's own attribute wins over this descriptor."""
        return self


class IntxLine:
    """One device's interrupt line."""

    def __init__(self, config: ConfigSpace, gate: Gate) -> None:
        self._config = config
        self._gate = gate
        self._client: Client | None = None
        self.asserted = False

    def raise_(self) -> None:
        """Asserts the line; nothing happens if it is asserted."""
        if not self.asserted:
            self._set(True)
            self.signal()

    def lower(self) -> None:
        """De-asserts the line."""
        self._set(False)

    def signal(self) -> None:
        """Signals an asserted line, unless INTX_DISABLE (S2.16) or the migration state (S3.9) forbids it."""
        allowed = self._gate.shows(_ACTING, Gate.RUNNING) and not self._config.intx_disabled
        if self.asserted and allowed and self._client is not None:
            self._client.interrupts.trigger(PciIrq.INTX, 0)

    def restore(self, asserted: bool) -> None:
        """Sets the level from a snapshot, without signalling it."""
        self._set(asserted)

    def attach(self, client: Client | None) -> None:
        """The client whose eventfd is signalled, or None."""
        self._client = client

    def _set(self, asserted: bool) -> None:
        self.asserted = asserted
        self._config.set_interrupt_status(asserted)
