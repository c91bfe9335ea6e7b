"""All interrupts of one device: INTx, MSI and MSI-X vectors, and the ERR and REQ pulses.

Which index a raised vector takes is decided by what the client has armed (S2.19, S2.21): MSI-X, else MSI, else the
INTx line. While nobody is connected it is the index that was armed last. It must not know registers or events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vfuserver._core import Gate
from vfuserver.device.intx import IntxLine
from vfuserver.device.message_vectors import MessageVectors
from vfuserver.device.msix_table import MsixTable
from vfuserver.errors import LocalError
from vfuserver.pci.caps.msi import Msi
from vfuserver.pci.caps.msi_x import MsiX
from vfuserver.pci.config_space import ConfigSpace
from vfuserver.vfio import Client, Irq, IrqFlags, PciIrq

_MASKABLE = IrqFlags.EVENTFD | IrqFlags.MASKABLE


class Interrupts:
    """One device's interrupts; `line` and `table` are None where the class declares none."""

    def __init__(self, config: ConfigSpace, gate: Gate, line: IntxLine | None, table: MsixTable | None) -> None:
        self.line = line
        self.table = table
        self.vectors: dict[PciIrq, MessageVectors] = {}
        msix, msi = config.find(MsiX), config.find(Msi)
        if msix is not None and table is not None:
            self._add(PciIrq.MSIX, msix.vectors, gate, table)
        if msi is not None:
            self.vectors[PciIrq.MSI] = MessageVectors(PciIrq.MSI, msi.vectors, gate, msi.masked, msi.set_pending)
        self._preferred = tuple(self.vectors.values())
        self._client: Client | None = None
        self._last = PciIrq.INTX

    def _add(self, index: PciIrq, count: int, gate: Gate, table: MsixTable) -> None:
        self.vectors[index] = MessageVectors(index, count, gate, table.masked, table.show)

    # -- raising ------------------------------------------------------------------------------------------------

    def raise_(self, vector: int = 0) -> None:
        """Raises a vector on the armed index, or asserts INTx. LocalError if the device has no such vector."""
        client = self._client
        if client is not None:  # as mode(), with nothing between: all that is done here the guest waits for
            armed = client.interrupts.armed
            for vectors in self._preferred:
                if armed(vectors.index):
                    vectors.raise_(vector)
                    return
        elif self._last is not PciIrq.INTX:
            self.vectors[self._last].raise_(vector)
            return
        self._assert_line(vector)

    def mode(self) -> PciIrq:
        """The index that a raised vector takes at this moment."""
        if self._client is None:
            return self._last
        for vectors in self._preferred:
            if vectors.armed:
                return vectors.index
        return PciIrq.INTX

    def error(self) -> None:
        """Pulses the ERR index: an unrecoverable error. QEMU stops the machine. Not kept pending."""
        if self._client is not None:
            self._client.interrupts.trigger(PciIrq.ERR, 0)

    def request(self) -> None:
        """Pulses the REQ index: asks the client to release the device. Not kept pending."""
        if self._client is not None:
            self._client.interrupts.trigger(PciIrq.REQ, 0)

    def _assert_line(self, vector: int) -> None:
        if self.line is not None:
            self.line.raise_()
            return
        for vectors in self.vectors.values():
            if vector < vectors.count:
                vectors.raise_(vector)
                return
        raise LocalError(f"the device declares no interrupt for vector {vector}: add Intx, Msi or MsiX to its class")

    # -- what changes outside -----------------------------------------------------------------------------------

    def attach(self, client: Client | None) -> None:
        """A client, or nobody: from now on these eventfds."""
        if client is None and self._client is not None:
            self._last = self.mode()
        self._client = client
        for target in self._targets():
            target.attach(client)

    def ready(self, index: int, start: int, count: int) -> None:
        """SET_IRQS armed or unmasked vectors: what is pending there, or an asserted line, is signalled."""
        if index == PciIrq.INTX and self.line is not None:
            self.line.signal()
        elif index in self.vectors:
            self.vectors[PciIrq(index)].retry(start, count)

    def changed(self, index: PciIrq) -> None:
        """Configuration space may have unmasked an index."""
        self.ready(index, 0, 1 << 32)

    def resume(self) -> None:
        """The device runs again."""
        for index in PciIrq:
            self.changed(index)

    def msix_written(self, element: int, value: int) -> None:
        """A client has written a dword of the MSI-X table."""
        if self.table is not None:
            self.vectors[PciIrq.MSIX].retry(self.table.store(element, value), 1)

    def reset(self) -> None:
        """Nothing pending, the line down; eventfds are the client's and stay (S2.30)."""
        if self.line is not None:
            self.line.lower()
        if self.table is not None:
            self.table.written.clear()
        for vectors in self.vectors.values():
            vectors.reset()

    # -- as data ------------------------------------------------------------------------------------------------

    def infos(self) -> tuple[Irq, ...]:
        """By VFIO index: MSI and MSI-X can be resized, all of the three can be masked, ERR and REQ cannot."""
        counts = {index: vectors.count for index, vectors in self.vectors.items()}
        counts[PciIrq.INTX] = 0 if self.line is None else 1
        infos = [Irq(counts[i], _MASKABLE) if counts.get(i) else Irq() for i in (PciIrq.INTX, PciIrq.MSI, PciIrq.MSIX)]
        return (*infos, Irq(1, IrqFlags.EVENTFD), Irq(1, IrqFlags.EVENTFD))

    def pending(self) -> dict[str, int]:
        """How many vectors of each declared index are pending; of INTx 1 while the line is asserted."""
        line = {} if self.line is None else {PciIrq.INTX.name: int(self.line.asserted)}
        return {**line, **{index.name: vectors.pending.bit_count() for index, vectors in self.vectors.items()}}

    def snapshot(self) -> dict[str, Any]:
        """The line's level, what is pending, the index in use; masks and eventfds are the connection's."""
        return {
            "intx": self.line is not None and self.line.asserted,
            "last": int(self.mode()),
            "written": sorted(self.table.written) if self.table is not None else [],
            **{index.name.lower(): vectors.pending for index, vectors in self.vectors.items()},
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Sets what snapshot() gave; it is sent when the device runs."""
        self._last = PciIrq(saved["last"])
        if self.line is not None:
            self.line.restore(bool(saved["intx"]))
        if self.table is not None:
            self.table.written = set(saved["written"])
        for index, vectors in self.vectors.items():
            vectors.restore(saved[index.name.lower()])

    def _targets(self) -> tuple[IntxLine | MessageVectors, ...]:
        return (*(() if self.line is None else (self.line,)), *self.vectors.values())
